"""`Name(a=1, b=0.5, c=true)`: a name with plain numbers, in announcements and settings. Nothing is evaluated."""

import math
import re
from typing import Final

from dl_mqtt_clients.errors import ModelError

Number = bool | int | float

_CALL: Final = re.compile(r"\s*([A-Za-z][A-Za-z0-9_]{0,63})\s*(?:\(([^()]{0,400})\))?\s*")
_PAIR: Final = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]{0,63})\s*=\s*([^\s=]{1,64})\s*")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,15}")
_WORDS: Final = {"true": True, "false": False}


def parse_call(text: str, *, place: str) -> tuple[str, dict[str, Number]]:
    """Name and numbers. ModelError names `place` when it is another text, or a number is not finite."""
    found = _CALL.fullmatch(text)
    if found is None:
        raise ModelError(f"{place}: expected a name with numbers, like Name(a=0.5). Received: {text[:100]!r}")
    name, inside = found.group(1), (found.group(2) or "").strip()
    values: dict[str, Number] = {}
    for part in inside.split(",") if inside else ():
        pair = _PAIR.fullmatch(part)
        if pair is None or pair.group(1) in values:
            raise ModelError(f"{place}: expected name=number, each once, in {name}(…). Received: {part.strip()[:64]!r}")
        values[pair.group(1)] = _number(pair.group(2), f"{place}: {name}({pair.group(1)}=…)")
    return name, values


def write_call(name: str, values: dict[str, Number]) -> str:
    """What `parse_call` reads; the name alone when there are no numbers."""
    inside = ", ".join(f"{key}={str(v).lower() if isinstance(v, bool) else repr(v)}" for key, v in values.items())
    return f"{name}({inside})" if inside else name


def _number(text: str, place: str) -> Number:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in text:
        raise ModelError(f"{place}: expected a finite number, true or false. Received: {text!r}")
    return value
