"""What is wrong with given values, in our own words instead of pydantic's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from dl_mqtt_clients.config.fields import MAX_INT
from dl_mqtt_clients.config.words import element, expected, is_secret, received

RULES_BROKEN: Final = "rules_broken"
FieldPath = tuple[str | int, ...]  # ("training", "epochs"), ("model", "hidden", 1)


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong value. `involved` are the other fields it was compared with."""

    path: FieldPath
    expected: str
    received: str
    involved: tuple[FieldPath, ...] = ()

    def text(self, place: str = "") -> str:
        line = f"{dotted(self.path)}: expected {self.expected}. Received: {self.received}"
        return f"{line} ({place})" if place else line


def dotted(path: FieldPath) -> str:
    """("model", "hidden", 1) -> `model.hidden[1]`."""
    names = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(names).removeprefix(".")


def explain(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """All mistakes behind a pydantic error."""
    return [mistake for detail in error.errors(include_url=False) for mistake in _explain(dict(detail), model)]


def _explain(detail: dict[str, Any], model: type[BaseModel]) -> Iterator[Mistake]:
    path: FieldPath = tuple(detail["loc"])
    if detail["type"] == RULES_BROKEN:
        yield from detail["ctx"]["broken"]
    elif detail["type"] == "extra_forbidden":
        yield unknown(path, model)
    else:
        yield wrong(path, model, detail["input"])


def wrong(path: FieldPath, model: type[BaseModel], value: object) -> Mistake:
    """A value of the wrong type or out of range."""
    field = field_at(model, path)
    if field is None:
        return Mistake(path, "known fields only", received(value))
    words = element(field) if isinstance(path[-1], int) else expected(field)
    if isinstance(value, int) and value > MAX_INT:
        words += " and ≤ 2^53"
    return Mistake(path, words, _shown(field, value))


def unknown(path: FieldPath, model: type[BaseModel], *, suggest: bool = True) -> Mistake:
    """A field that does not exist, with the one that was probably meant. Its value is not shown: it may be a secret."""
    whole = all(section_of(field) for field in model.model_fields.values())
    known = "a known section" if whole else "a known field"
    place = f"a field of {dotted(path[:-1])}" if len(path) > 1 else known
    guess = _guess(path, model) if suggest else ""
    return Mistake(path, f"{place} (did you mean {guess}?)" if guess else place, repr(str(path[-1])[:100]))


def field_at(model: type[BaseModel], path: FieldPath) -> FieldInfo | None:
    """The field that `path` leads to or into."""
    field = model.model_fields.get(str(path[0])) if path else None
    inner = section_of(field)
    if inner is not None and len(path) > 1:
        return field_at(inner, path[1:])
    return field


def exists(path: FieldPath, model: type[BaseModel]) -> bool:
    """Whether `path` is a section or a value of `model`."""
    field = model.model_fields.get(str(path[0]))
    inner = section_of(field)
    return field is not None and (len(path) == 1 or (inner is not None and exists(path[1:], inner)))


def section_of(field: FieldInfo | None) -> type[BaseModel] | None:
    """The model of a field that is a section, None for a value."""
    kind = field.annotation if field else None
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def leaves(model: type[BaseModel], prefix: FieldPath = ()) -> Iterator[tuple[FieldPath, FieldInfo]]:
    """Every value's path and field, in the order of the file."""
    for name, field in model.model_fields.items():
        inner = section_of(field)
        if inner is None:
            yield (*prefix, name), field
        else:
            yield from leaves(inner, (*prefix, name))


def _shown(field: FieldInfo, value: object) -> str:
    """Passwords are not shown, nor is the one that someone put into a URL."""
    if is_secret(field):
        return f"a value of type {type(value).__name__} (not shown)"
    if isinstance(value, str) and "://" in value and "@" in value:
        return received(f"{value.split('://', 1)[0]}://…@{value.rsplit('@', 1)[1]}")
    return received(value)


def _guess(path: FieldPath, model: type[BaseModel]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only when something is wrong

    name = str(path[-1])
    parent = model if len(path) == 1 else section_of(field_at(model, path[:-1]))
    siblings = list(parent.model_fields) if parent else []
    elsewhere = [dotted(leaf) for leaf, _ in leaves(model) if leaf[-1] == name]
    whole = [dotted(leaf) for leaf, _ in leaves(model)]
    close = get_close_matches(name, siblings, 1, 0.6) or elsewhere[:1]
    return next(iter(close or get_close_matches(dotted(path), whole, 1, 0.6)), "")
