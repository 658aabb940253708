"""Text from a flag or an environment variable as a value of the field's type, as far as it reads as one."""

from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from dl_mqtt_clients.config.words import bare, is_secret
from dl_mqtt_clients.config.yaml import TextMistakeError, parse, scalar


def from_text(field: FieldInfo, text: str) -> Any:
    """`3` -> 3 for a number, `3` -> "3" for a text, `a, b` or `[a, b]` -> ["a", "b"] for a list.

    What does not read as the field's type is returned as it is: the check of the field then says so.
    """
    kind = bare(field.annotation)
    if is_secret(field):
        return text
    if get_origin(kind) is tuple:
        return _items(text.strip(), as_text=bare(get_args(kind)[0]) is str)
    return _unquoted(text) if _holds_text(kind) else scalar(text.strip())


def _holds_text(kind: Any) -> bool:
    return kind is str or any(isinstance(choice, str) for choice in get_args(kind))


def _unquoted(text: str) -> str:
    """Text in a pair of quotes loses them, as in YAML."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"
    value = _yaml(text) if quoted else text
    return value if isinstance(value, str) else text


def _items(text: str, *, as_text: bool) -> Any:
    if text.startswith("["):
        items = _yaml(text)
    else:
        items = [part.strip() for part in text.split(",")] if text else []
        items = [_unquoted(part) if as_text else scalar(part) for part in items]
    if not isinstance(items, list):
        return text
    return [str(item) if as_text and type(item) is int else item for item in items]


def _yaml(text: str) -> Any:
    try:
        return parse(text).plain()
    except TextMistakeError:
        return text
