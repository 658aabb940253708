"""Strategies from plain data, as YAML gives it.

    fedavg                                        one part by its name
    my_rules:trust_weighted                       one of your own, from a module outside the package
    {step: {name: fedadam, lr: 0.01}, reduction: {name: trimmed_mean, share: 0.1}, transforms: [{name: clip_norm}]}

Transforms are listed in the order in which they are applied: the first sees the update as it came.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dl_mqtt_clients.aggregation.strategies import custom
from dl_mqtt_clients.aggregation.strategies.adaptive_clip import AdaptiveClip
from dl_mqtt_clients.aggregation.strategies.bulyan import Bulyan
from dl_mqtt_clients.aggregation.strategies.clip_norm import ClipNorm
from dl_mqtt_clients.aggregation.strategies.fedadagrad import FedAdagrad
from dl_mqtt_clients.aggregation.strategies.fedadam import FedAdam
from dl_mqtt_clients.aggregation.strategies.fedavg import FedAvg
from dl_mqtt_clients.aggregation.strategies.fedavgm import FedAvgM
from dl_mqtt_clients.aggregation.strategies.fednova import FedNova
from dl_mqtt_clients.aggregation.strategies.fedyogi import FedYogi
from dl_mqtt_clients.aggregation.strategies.krum import Krum, MultiKrum
from dl_mqtt_clients.aggregation.strategies.mean import Mean, UniformMean
from dl_mqtt_clients.aggregation.strategies.median import Median
from dl_mqtt_clients.aggregation.strategies.ranges import field_mistakes
from dl_mqtt_clients.aggregation.strategies.staleness import HingeStaleness, PolynomialStaleness
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy, compose, of_part
from dl_mqtt_clients.aggregation.strategies.trimmed_mean import TrimmedMean
from dl_mqtt_clients.config.mistakes import FieldPath, Mistake
from dl_mqtt_clients.config.words import received
from dl_mqtt_clients.errors import ConfigurationError

STEPS: Final[Mapping[str, type]] = {
    "fedavg": FedAvg, "fedavgm": FedAvgM, "fedadagrad": FedAdagrad, "fedadam": FedAdam, "fedyogi": FedYogi,
}  # fmt: skip
REDUCTIONS: Final[Mapping[str, type]] = {
    "mean": Mean, "uniform_mean": UniformMean, "fednova": FedNova, "median": Median, "trimmed_mean": TrimmedMean,
    "krum": Krum, "multi_krum": MultiKrum, "bulyan": Bulyan,
}  # fmt: skip
TRANSFORMS: Final[Mapping[str, type]] = {
    "clip_norm": ClipNorm, "adaptive_clip": AdaptiveClip,
    "polynomial_staleness": PolynomialStaleness, "hinge_staleness": HingeStaleness,
}  # fmt: skip
ALL: Final[Mapping[str, type]] = {**STEPS, **REDUCTIONS, **TRANSFORMS}
_SECTIONS: Final = ("step", "reduction", "transforms")


def parse_strategy(data: object, *, path: FieldPath = ("strategy",), folders: Sequence[Path] = ()) -> Strategy:
    """Plain data to a strategy. ConfigurationError lists every mistake; `folders` may hold modules of one's own."""
    reader = _Reader(tuple(folders))
    strategy = reader.strategy(data, path)
    if reader.mistakes or strategy is None:
        cause = next(iter(reader.causes), None)
        raise ConfigurationError([mistake.text() for mistake in reader.mistakes]) from cause
    return strategy


class _Reader:
    """Reads on after a mistake, so that all are found."""

    def __init__(self, folders: tuple[Path, ...]) -> None:
        self.mistakes: list[Mistake] = []
        self.causes: list[BaseException] = []
        self._folders = folders

    def strategy(self, data: object, path: FieldPath) -> Strategy | None:
        if isinstance(data, Strategy):
            return data
        if isinstance(data, Mapping) and "name" not in data:
            return self._sections(data, path)
        return self._part(data, path, ALL, "a strategy")

    def _sections(self, data: Mapping[Any, Any], path: FieldPath) -> Strategy | None:
        for name in data:
            if name not in _SECTIONS:
                self._wrong((*path, str(name)), "one of " + ", ".join(_SECTIONS), str(name))
        given: list[Strategy | None] = []
        if data.get("step") is not None:
            given.append(self._part(data["step"], (*path, "step"), STEPS, "a server step"))
        if data.get("reduction") is not None:
            given.append(self._part(data["reduction"], (*path, "reduction"), REDUCTIONS, "a reduction"))
        transforms = data.get("transforms") or ()
        if isinstance(transforms, str | Mapping) or not isinstance(transforms, Sequence):
            self._wrong((*path, "transforms"), "a list of transforms", transforms)
            return None
        read = [self._part(t, (*path, "transforms", i), TRANSFORMS, "a transform") for i, t in enumerate(transforms)]
        given += reversed(read)  # as written with @, the first applied is the last
        if any(part is None for part in given):
            return None
        return self._composed([part for part in given if part is not None], path)

    def _composed(self, given: Sequence[Strategy], path: FieldPath) -> Strategy | None:
        strategy = given[0] if given else Strategy()
        for part in given[1:]:
            try:
                strategy = compose(strategy, part)
            except ConfigurationError as error:  # a part of one's own that is of another kind than its section
                self.causes.append(error)
                self._wrong(path, "step, reduction and transforms, each in its own section", str(part))
                return None
        return strategy

    def _part(self, data: object, path: FieldPath, known: Mapping[str, type], kind: str) -> Strategy | None:
        name, values = data, {}
        if isinstance(data, Mapping):
            name, values = data.get("name"), {str(k): v for k, v in data.items() if k != "name"}
            path_of_name: FieldPath = (*path, "name")
        else:
            path_of_name = path
        if isinstance(name, str) and ":" in name:
            return self._own(name, values, path)
        if not isinstance(name, str) or name not in known:
            near = get_close_matches(str(name), known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self._wrong(path_of_name, f"{kind}, one of {', '.join(known)}, or module:name{hint}", name)
            return None
        return self._built(known[name], values, path)

    def _own(self, name: str, values: Mapping[str, object], path: FieldPath) -> Strategy | None:
        try:
            found = custom.load(name, self._folders)
        except Exception as error:  # noqa: BLE001 - the module is the operator's: whatever it raises is its mistake
            self.causes.append(error)
            reason = f"{name!r} ({type(error).__name__}: {str(error)[:200]})"
            self.mistakes.append(Mistake(path, "a module that can be imported, and a name in it", reason))
            return None
        return self._built(found, values, path)

    def _built(self, kind: object, values: Mapping[str, object], path: FieldPath) -> Strategy | None:
        """A class or function called with its fields, or a part or strategy as it is."""
        if not isinstance(kind, type) and not inspect.isfunction(kind):
            return kind if isinstance(kind, Strategy) else self._as_strategy(kind, path)
        if isinstance(kind, type) and is_dataclass(kind):
            wrong = field_mistakes(kind, values)
            self.mistakes += [Mistake((*path, *m.path), m.expected, m.received) for m in wrong]
            if wrong:
                return None
        call: Callable[..., object] = kind
        try:
            made = call(**values)
        except Exception as error:  # noqa: BLE001 - the operator's own code
            self.causes.append(error)
            self._wrong(path, f"fields that {getattr(kind, '__name__', kind)} takes", f"{values} ({error})"[:300])
            return None
        return made if isinstance(made, Strategy) else self._as_strategy(made, path)

    def _as_strategy(self, part: object, path: FieldPath) -> Strategy | None:
        try:
            return of_part(part)
        except ConfigurationError as error:
            self.causes.append(error)
            words = "a server step (apply), a reduction (weigh or reduce), a transform (scale) or a Strategy"
            self._wrong(path, words, repr(part)[:200])
            return None

    def _wrong(self, path: FieldPath, expected: str, value: object) -> None:
        self.mistakes.append(Mistake(path, expected, received(value)))
