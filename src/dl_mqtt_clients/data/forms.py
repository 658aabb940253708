"""The four JSON forms of a reading, each with a decoder compiled for the stream's features.

A categorical feature may be a word; the others are numbers. Types, array lengths and missing names are checked by the
decoder, in C, before a Python object is made of the rest.
"""

import re
import struct
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from dl_mqtt_clients.data.categories import LONGEST, category_code
from dl_mqtt_clients.errors import DataError, MessageError

# What scores and anomalies can carry back: they encode 64-bit integers, and refuse larger ones.
_Integer = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_Text = Annotated[str, Meta(max_length=200)]
_Category = Annotated[str, Meta(max_length=LONGEST)] | float
_Id = None | _Text | _Integer
_Timestamp = None | _Text | _Integer | float
_Label = None | bool | int | float | _Text
_EXTRAS: Final = ("label", "id", "timestamp")
_FIRST_CHARACTERS = re.compile(rb"\s*([{[])\s*(.?)", re.DOTALL)

_TYPES: Final[dict[str, Any]] = {"label": _Label, "id": _Id, "timestamp": _Timestamp}


@dataclass(frozen=True, slots=True)
class Form:
    """How one form is decoded and taken apart. `one` serves single readings, `rows` messages of many."""

    many: bool
    decode: Callable[[bytes], Any]
    pack: Callable[..., bytes]  # a row's values as float64 bytes
    one: Callable[[Any], tuple[Sequence[float], Any, Any, Any]]  # row, label, id, timestamp
    rows: Callable[[Any], tuple[list[Sequence[float]], dict[str, list[Any]]]]  # rows and their own extras


def build_forms(
    features: Sequence[str] | int, *, label: str, max_rows: int, categorical: Collection[int] = ()
) -> dict[str, Form]:
    """values, rows, and with feature names also object, objects. DataError when names cannot serve as keys.

    `categorical`: places of the features that may be words.
    """
    count = features if isinstance(features, int) else len(features)
    if count < 1:
        raise DataError("features: expected at least one. Received: none")
    if label in ("data", "id", "timestamp"):
        raise DataError(f"label: expected a name other than data, id and timestamp. Received: {label!r}")
    if not all(0 <= place < count for place in categorical):
        raise DataError(f"categorical: expected places of {count} features. Received: {sorted(categorical)[:20]}")
    pack = _packer(count, categorical)
    kinds: list[Any] = [_Category if place in categorical else float for place in range(count)]
    values: Any = Annotated[list[float], Meta(min_length=count, max_length=count)]
    if categorical:
        values = tuple.__class_getitem__(tuple(kinds))
    rows: Any = Annotated[list[values], Meta(min_length=1, max_length=max_rows)]
    forms = {
        "values": _form(values, label, pack=pack, one=_values),
        "rows": _form(rows, label, pack=pack, rows=_rows),
    }
    if isinstance(features, int):
        return forms
    row_type, extras = _row_type(tuple(features), kinds, label)
    objects: Any = Annotated[list[row_type], Meta(min_length=1, max_length=max_rows)]  # type: ignore[valid-type]
    forms["object"] = _form(row_type, label, pack=pack, one=_object_taker(count, extras))
    forms["objects"] = _form(objects, label, pack=pack, rows=_objects_taker(count, extras))
    return forms


def form_of(payload: bytes, forms: dict[str, Form]) -> Form:
    """The form of a message, from the first characters of its `data`."""
    data = _peek.decode(payload).data
    found = _FIRST_CHARACTERS.match(data)
    outer, inner = found.groups() if found else (b"[", b"")
    name = "object" if outer == b"{" else {b"[": "rows", b"{": "objects"}.get(inner, "values")
    if name not in forms:
        raise MessageError(
            "reading: data: expected an array of values, since no feature names are configured. Received: an object"
        )
    return forms[name]


def _packer(count: int, categorical: Collection[int]) -> Callable[..., bytes]:
    """A row's values -> float64 bytes; MessageError when a category is no code."""
    pack = struct.Struct(f"{count}d").pack
    if not categorical:
        return pack

    def pack_codes(*row: Any) -> bytes:
        values = list(row)
        for place in categorical:
            values[place] = category_code(values[place])
        return pack(*values)

    return pack_codes


class _Peek(msgspec.Struct):
    data: msgspec.Raw


_peek = msgspec.json.Decoder(_Peek)


def _form(data: Any, label: str, *, pack: Callable[..., bytes], one: Any = None, rows: Any = None) -> Form:
    many = rows is not None
    extras: list[Any] = [(name, _or_list(kind) if many else kind, None) for name, kind in _TYPES.items()]
    message = msgspec.defstruct("Reading", [("data", data), *extras], rename={"label": label}, gc=False)
    return Form(many, msgspec.json.Decoder(message).decode, pack, one or _not_for_this_form, rows or _not_for_this_form)


def _or_list(kind: Any) -> Any:
    return kind | list[kind]


def _row_type(features: tuple[str, ...], kinds: Sequence[Any], label: str) -> tuple[type, tuple[str, ...]]:
    """A struct with the features in order, then those of label, id and timestamp that no feature is called."""
    names = {f"f{index}": name for index, name in enumerate(features)}
    keys = {"label": label, "id": "id", "timestamp": "timestamp"}
    extras = tuple(name for name in _EXTRAS if keys[name] not in features)
    fields: list[Any] = list(zip(names, kinds, strict=True))
    fields += [(name, _TYPES[name], None) for name in extras]
    try:
        row = msgspec.defstruct("Row", fields, rename=names | {name: keys[name] for name in extras}, gc=False)
        msgspec.json.Decoder(row)
    except (ValueError, TypeError) as error:
        raise DataError(f"features: expected different names without quotes or backslashes. {error}") from error
    return row, extras


def _values(message: Any) -> tuple[Sequence[float], Any, Any, Any]:
    return message.data, message.label, message.id, message.timestamp


def _rows(message: Any) -> tuple[list[Sequence[float]], dict[str, list[Any]]]:
    return message.data, {}


def _object_taker(count: int, extras: tuple[str, ...]) -> Any:
    astuple = msgspec.structs.astuple

    def take(message: Any) -> tuple[Sequence[float], Any, Any, Any]:
        values = astuple(message.data)
        own = dict(zip(extras, values[count:], strict=True))
        label, reading_id, timestamp = (
            getattr(message, name) if own.get(name) is None else own[name] for name in _EXTRAS
        )
        return values[:count], label, reading_id, timestamp

    return take


def _objects_taker(count: int, extras: tuple[str, ...]) -> Any:
    astuple = msgspec.structs.astuple

    def take(message: Any) -> tuple[list[Sequence[float]], dict[str, list[Any]]]:
        table = [astuple(row) for row in message.data]
        own = {name: [values[count + k] for values in table] for k, name in enumerate(extras)}
        return [values[:count] for values in table], own

    return take


def _not_for_this_form(_message: Any) -> Any:
    raise NotImplementedError
