"""Ranges of a part's fields, as types: `lr: Annotated[float, Range(above=0)]`."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from dl_mqtt_clients.config.mistakes import Mistake
from dl_mqtt_clients.config.words import received

_KINDS = {float: "a number", int: "an integer", bool: "true or false", str: "text"}


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of a number, open (`above`, `below`) or closed (`least`, `most`)."""

    above: float = -math.inf
    least: float = -math.inf
    below: float = math.inf
    most: float = math.inf

    def holds(self, value: float) -> bool:
        return self.above < value < self.below and self.least <= value <= self.most

    def words(self) -> str:
        bounds = ((">", self.above), ("≥", self.least), ("<", self.below), ("≤", self.most))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if math.isfinite(bound))


AboveZero = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(least=0)]
Decay = Annotated[float, Range(least=0, below=1)]
Attackers = Annotated[int, Range(least=0)]


def field_mistakes(kind: type, values: Mapping[str, object]) -> list[Mistake]:
    """What is wrong with the fields of a dataclass `kind`: wrong types, out of range, missing, unknown."""
    hints = get_type_hints(kind, include_extras=True)
    known = {field.name: field for field in fields(kind) if field.init}
    found = [_wrong(name, hints[name], value) for name, value in values.items() if name in known]
    found += [
        Mistake((name,), _words(hints[name]), "nothing")
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    names = ", ".join(known) or "no fields"
    found += [
        Mistake((name,), f"a known field ({names})", received(v)) for name, v in values.items() if name not in known
    ]
    return [mistake for mistake in found if mistake is not None]


def _wrong(name: str, hint: Any, value: object) -> Mistake | None:
    kind, ranges = _bare(hint), list(_ranges(hint))
    if kind not in _KINDS:
        return None  # a part of its own may have fields that we know nothing of
    right = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if right and isinstance(value, (int, float)):
        right = math.isfinite(value) and all(r.holds(value) for r in ranges)
    return None if right else Mistake((name,), _words(hint), received(value))


def _words(hint: Any) -> str:
    return " ".join([_KINDS.get(_bare(hint), "a value"), *(r.words() for r in _ranges(hint))])


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _ranges(hint: Any) -> Iterator[Range]:
    return (mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Range))
