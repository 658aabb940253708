"""A field's type and range in words, and a received value in words: for errors and for the file's comments."""

import reprlib
from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dl_mqtt_clients.config.fields import MAX_INT, Expect

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 100
_short.maxlevel = 2


def expected(field: FieldInfo) -> str:
    """`an integer ≥ 1`, `one of anomaly, supervised`, `a list, each text on one line`, …"""
    return _words(field.annotation, field.metadata)


def element(field: FieldInfo) -> str:
    """The same for one element of a list field."""
    return _words(bare(field.annotation), ()).removeprefix("a list, each ")


def received(value: object) -> str:
    """A value as a person wrote it in YAML, cut to a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a section"
    if isinstance(value, int) and abs(value) >= 10**40:
        return "an integer of more than 40 digits"
    return _short.repr(list(value) if isinstance(value, tuple) else value)


def is_secret(field: FieldInfo) -> bool:
    """Whether the value must never be shown."""
    return field.annotation is SecretStr


def bare(kind: Any) -> Any:
    """A type without its annotations."""
    return bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _words(kind: Any, metadata: Iterable[object]) -> str:
    marks = list(_flat(metadata))
    if get_origin(kind) is Annotated:
        return _words(get_args(kind)[0], [*get_args(kind)[1:], *marks])
    if get_origin(kind) in (Union, UnionType):
        inner = next(part for part in get_args(kind) if part is not NoneType)
        return f"{_words(inner, marks)}, or null"
    if get_origin(kind) is tuple:
        return f"a list, each {_words(get_args(kind)[0], ())}"
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    return _simple(kind, marks)


def _simple(kind: Any, marks: list[object]) -> str:
    if kind is bool:
        return "true or false"
    if kind in (int, float):
        return ("an integer" if kind is int else "a number") + _range(marks)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return "a section with fields of its own"
    words = next((mark.words for mark in marks if isinstance(mark, Expect)), "text")
    return words + _length(marks)


def _range(marks: list[object]) -> str:
    above = [mark.gt for mark in marks if hasattr(mark, "gt")]
    least = [mark.ge for mark in marks if hasattr(mark, "ge")]
    below = [mark.lt for mark in marks if hasattr(mark, "lt")]
    most = [mark.le for mark in marks if hasattr(mark, "le") and mark.le != MAX_INT]
    if least and most and not above:
        return f" between {_number(max(least))} and {_number(min(most))}"
    low = f"> {_number(max(above))}" if above else f"≥ {_number(max(least))}" if least else ""
    high = f"< {_number(min(below))}" if below else f"≤ {_number(min(most))}" if most else ""
    return "".join((low and f" {low}", low and high and " and", high and f" {high}"))


def _number(value: float) -> str:
    return f"{value:.15g}"


def _length(marks: list[object]) -> str:
    words = ""
    for mark in marks:
        if hasattr(mark, "min_length"):
            words += ", not empty"
        if hasattr(mark, "max_length"):
            words += f", at most {mark.max_length} characters"
    return words


def _flat(metadata: Iterable[object]) -> Iterable[object]:
    for mark in metadata:
        if isinstance(mark, FieldInfo):
            yield from mark.metadata
        else:
            yield mark
