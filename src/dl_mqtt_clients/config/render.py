"""The configuration file written from the models, so that its comments cannot be wrong."""

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from dl_mqtt_clients.config.mistakes import section_of
from dl_mqtt_clients.config.settings import Settings
from dl_mqtt_clients.config.words import expected

COLUMNS: Final = 110
_HEAD = """\
Configuration of federated learning. One file serves all roles: each reads the sections that concern it.
Every field may be left out, and then has its default. A field can also be set by a flag, --set training.epochs=3, \
and by an environment variable, FEDLEARN_TRAINING__EPOCHS=3. A flag wins over the environment, which wins over \
this file, which wins over the default.
Check it: fedlearn config check. Write it anew: python -m dl_mqtt_clients.config
"""
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]")


def render_settings(settings: Settings | None = None) -> str:
    """YAML that loads as `settings` (None: the defaults), each field with meaning, range and default.

    Passwords are not written; those of `settings` must come from their file or the environment.
    """
    lines = [line for part in _HEAD.splitlines() for line in _comment(part, 0)]
    lines += _section(settings or Settings(), 0)
    return "\n".join(lines) + "\n"


def _section(values: BaseModel, indent: int) -> Iterator[str]:
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        inner = section_of(field)
        if inner is not None:
            yield from [""] * (indent == 0)
            yield from _comment(inner.__doc__ or "", indent)
            yield f"{' ' * indent}{name}:"
            yield from _section(value, indent + 2)
        else:
            yield from _about(field, indent)
            yield f"{' ' * indent}{name}: {_yaml(value, field)}"


def _about(field: FieldInfo, indent: int) -> list[str]:
    """Meaning, then range and default; on one line where they fit."""
    limits = f"[{expected(field)}; default {_yaml(field.default, field)}]"
    whole = _comment(f"{field.description} {limits}", indent)
    return whole if len(whole) == 1 else _comment(field.description or "", indent) + _comment(limits, indent)


def _comment(text: str, indent: int) -> list[str]:
    start = " " * indent + "# "
    return textwrap.wrap(text, COLUMNS, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _yaml(value: Any, field: FieldInfo) -> str:
    """A value in flow style; texts in quotes, except those that are one of a few words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_yaml(item, field) for item in value) + "]"
    if isinstance(value, SecretStr):
        return '""'
    if isinstance(value, str):
        return value if value in get_args(field.annotation) else _quoted(value)
    return repr(value)


def _quoted(text: str) -> str:
    """A double-quoted scalar. JSON's escapes are YAML's, but YAML allows fewer characters as they are."""
    return _NOT_PRINTABLE.sub(lambda found: f"\\U{ord(found[0]):08x}", json.dumps(text, ensure_ascii=False))
