"""What a strategy's transforms do to the updates of a round, and what they learn from it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Facts, Transform, does

State = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Scaled:
    """What became of an update: a small record."""

    facts: Facts
    norm: float  # of its trainables as it came; NaN when no transform asked
    scales: tuple[float, ...]  # what each transform answered

    @property
    def scale(self) -> float:
        return math.prod(self.scales)


class Transforms:
    """In the order in which they are applied. `state`: the last round's, by names as `transform.0.MedianClip/bound`."""

    def __init__(self, transforms: Sequence[Transform], state: State) -> None:
        self._transforms = tuple(transforms)
        self._states = [_kept(name, transform, state) for name, transform in self._named()]
        self._open = [
            i
            for i, (name, transform) in enumerate(self._named())
            if getattr(transform, "looks_ahead", False) and not any(key.startswith(f"{name}/") for key in state)
        ]

    @property
    def look_ahead(self) -> bool:
        """Whether scales are known only when all updates of the round are: see `settle`."""
        return bool(self._open)

    def scale(self, facts: Facts, measure: Callable[[], float]) -> Scaled:
        """`measure()` is the norm of the update as it came; asked for once at most."""
        norms: list[float] = []
        scales: list[float] = []

        def norm() -> float:
            if not norms:
                norms.append(measure())
            return norms[0] * math.prod(scales)

        for transform, state in zip(self._transforms, self._states, strict=True):
            if does(transform, "next"):
                norm()
            scales.append(float(transform.scale(facts, norm, state)))
        return Scaled(facts, next(iter(norms), math.nan), tuple(scales))

    def settle(self, updates: Sequence[Scaled]) -> list[Scaled]:
        """Let transforms that look ahead learn from the round's own updates, in order of node; these, scaled anew."""
        for i in self._open:
            self._states[i] = dict(self._next(i, updates))
            updates = [self.scale(u.facts, lambda u=u: u.norm) for u in updates]  # type: ignore[misc]
        return list(updates)

    def next(self, updates: Sequence[Scaled]) -> dict[str, np.ndarray]:
        """The state after a round of these updates, in order of node."""
        return {
            f"{name}/{key}": np.array(value, np.float64)
            for i, (name, transform) in enumerate(self._named())
            if does(transform, "next")
            for key, value in self._next(i, updates).items()
        }

    def scale_of_statistics(self, update: Scaled) -> float:
        pairs = zip(self._transforms, update.scales, strict=True)
        return math.prod(scale for transform, scale in pairs if getattr(transform, "statistics", False))

    def _next(self, i: int, updates: Sequence[Scaled]) -> Mapping[str, float]:
        norms = [u.norm * math.prod(u.scales[:i]) for u in updates]
        after: Mapping[str, float] = self._transforms[i].next(self._states[i], norms)  # type: ignore[attr-defined]
        return after

    def _named(self) -> list[tuple[str, Transform]]:
        return [(f"transform.{i}.{type(t).__name__}", t) for i, t in enumerate(self._transforms)]


def _kept(name: str, transform: Transform, state: State) -> dict[str, float]:
    """What was kept, or the values before the first round."""
    initial: Mapping[str, float] = transform.initial() if does(transform, "initial") else {}  # type: ignore[attr-defined]
    return {key: float(state.get(f"{name}/{key}", value)) for key, value in initial.items()}
