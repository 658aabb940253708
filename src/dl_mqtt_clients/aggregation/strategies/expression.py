"""A strategy as one line of text, the same in YAML, on the command line and in Python.

    FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)        server step @ reduction @ transforms
    my_rules:trust_weighted                                    a rule of your own
    FedAvg @ my_rules:trust_weighted(floor=0.2)

Arguments are plain numbers, texts and booleans: nothing of the text is executed.
"""

import ast
import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dl_mqtt_clients.aggregation.strategies import custom
from dl_mqtt_clients.aggregation.strategies.registry import ALL
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy, compose, of_part
from dl_mqtt_clients.errors import ConfigurationError

NAMES: Final[Mapping[str, type]] = {kind.__name__: kind for kind in ALL.values()}
_TERM: Final = re.compile(r"(?P<name>(?:[\w./-]+:)?\w+)\s*(?P<arguments>\(.*\))?", re.DOTALL)


def read_strategy(text: str, *, place: str = "rounds.strategy", folders: Sequence[Path] = ()) -> Strategy:
    """The strategy that `text` describes. ConfigurationError says what is wrong, beginning with `place`.

    `folders` are searched for modules of your own before Python's own path is.
    """
    strategy: Strategy | None = None
    for term in text.split("@"):
        part = _part(term.strip(), place, folders)
        try:
            strategy = of_part(part) if strategy is None else compose(strategy, part)
        except ConfigurationError as error:
            raise ConfigurationError([f"{place}: {mistake}" for mistake in error.mistakes]) from error
    return strategy or Strategy()


def _part(term: str, place: str, folders: Sequence[Path]) -> object:
    found = _TERM.fullmatch(term)
    if found is None:
        raise _wrong(place, "parts such as FedAdam(lr=0.01), joined by @", term)
    name, arguments = found["name"], found["arguments"]
    kind = _own(name, place, folders) if ":" in name else _known(name, place)
    if not callable(kind) or isinstance(kind, Strategy):
        return kind
    if not isinstance(kind, type) and not arguments and hasattr(kind, "weigh"):
        return kind
    values, named = _values(arguments or "()", place, term)
    try:
        made: Callable[..., object] = kind
        return made(*values, **named)
    except ConfigurationError as error:
        raise ConfigurationError([f"{place}: {mistake}" for mistake in error.mistakes]) from error
    except Exception as error:  # the operator's own code, or arguments that a part does not take
        raise _wrong(place, f"arguments that {name} takes", f"{term} ({error})") from error


def _known(name: str, place: str) -> type:
    if name in NAMES:
        return NAMES[name]
    near = get_close_matches(name, NAMES, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise _wrong(place, f"one of {', '.join(sorted(NAMES))}, or module:name{hint}", name)


def _own(name: str, place: str, folders: Sequence[Path]) -> object:
    try:
        return custom.load(name, folders)
    except Exception as error:  # whatever the operator's module raises
        reason = f"{name} ({type(error).__name__}: {str(error)[:200]})"
        raise _wrong(place, "a module that can be imported, and a name in it", reason) from error


def _values(arguments: str, place: str, term: str) -> tuple[list[Any], dict[str, Any]]:
    """Literal arguments of a call."""
    try:
        call: Any = ast.parse(f"f{arguments}", mode="eval").body
        values = [ast.literal_eval(value) for value in call.args]
        return values, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise _wrong(place, "plain arguments such as (0.1) or (lr=0.01)", f"{term} ({error})") from error


def _wrong(place: str, expected: str, received: str) -> ConfigurationError:
    return ConfigurationError([f"{place}: expected {expected}. Received: {received[:300]!r}"])
