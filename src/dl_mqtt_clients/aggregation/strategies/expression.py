"""A strategy as one line of text, the same in YAML, on the command line and in Python.

    FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)        server step @ reduction @ transforms
    my_rules:trust_weighted                                    a rule of your own
    FedAvg @ my_rules:trust_weighted(floor=0.2)

Arguments are plain numbers, texts and booleans: nothing of the text is executed.
"""

import ast
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dl_mqtt_clients.aggregation.strategies import custom
from dl_mqtt_clients.aggregation.strategies.registry import PARTS
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy, compose, of_part
from dl_mqtt_clients.errors import ConfigurationError

_TERM: Final = re.compile(r"(?P<name>(?:[\w./-]+:)?\w+)\s*(?P<arguments>\(.*\))?", re.DOTALL)


def read_strategy(text: str, *, place: str = "rounds.strategy", folders: Sequence[Path] = ()) -> Strategy:
    """The strategy that `text` describes. ConfigurationError lists what is wrong with each part, after `place`.

    `folders` are searched for modules of your own before Python's own path is.
    """
    parts, mistakes = list[Strategy](), list[str]()
    for term in text.split("@"):
        try:
            part = _part(term.strip(), folders)
            parts.append(part if isinstance(part, Strategy) else of_part(part))
        except ConfigurationError as error:
            mistakes += error.mistakes
            cause = error.__cause__
    if mistakes:
        raise _at(place, mistakes) from cause
    strategy = parts[0]
    for part in parts[1:]:
        try:
            strategy = compose(strategy, part)
        except ConfigurationError as error:
            raise _at(place, error.mistakes) from error
    return strategy


def _part(term: str, folders: Sequence[Path]) -> object:
    found = _TERM.fullmatch(term)
    if found is None:
        raise _wrong("parts such as FedAdam(lr=0.01), joined by @", term)
    name, arguments = found["name"], found["arguments"]
    kind = _own(name, folders) if ":" in name else _known(name)
    if not callable(kind):
        if arguments:
            raise _wrong(f"{name} without arguments: it is a value already", term)
        return kind
    values, named = _values(arguments or "()", term)
    try:
        made: Callable[..., object] = kind
        return made(*values, **named)
    except ConfigurationError:
        raise
    except Exception as error:  # the operator's own code, or arguments that a part does not take
        raise _wrong(f"arguments that {name} takes", f"{term} ({error})") from error


def _known(name: str) -> type:
    if name in PARTS:
        return PARTS[name]
    near = get_close_matches(name, PARTS, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise _wrong(f"one of {', '.join(sorted(PARTS))}, or module:name{hint}", name)


def _own(name: str, folders: Sequence[Path]) -> object:
    try:
        return custom.load(name, folders)
    except Exception as error:  # whatever the operator's module raises
        reason = f"{name} ({type(error).__name__}: {str(error)[:200]})"
        raise _wrong("a module that can be imported, and a name in it", reason) from error


def _values(arguments: str, term: str) -> tuple[list[Any], dict[str, Any]]:
    """Literal arguments of a call."""
    try:
        call: Any = ast.parse(f"f{arguments}", mode="eval").body
        values = [ast.literal_eval(value) for value in call.args]
        return values, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise _wrong("plain arguments such as (0.1) or (lr=0.01)", f"{term} ({error})") from error


def _at(place: str, mistakes: Sequence[str]) -> ConfigurationError:
    return ConfigurationError([f"{place}: {mistake.removeprefix('strategy: ')}" for mistake in mistakes])


def _wrong(expected: str, received: str) -> ConfigurationError:
    return ConfigurationError([f"expected {expected}. Received: {received[:300]!r}"])
