"""Krum and multi-Krum."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import Attackers, Range
from dl_mqtt_clients.aggregation.strategies.stack import Stack
from dl_mqtt_clients.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Krum(Part):
    """Δ = the Δ_k with the smallest sum of squared distances to its n - f - 2 nearest others; ties by node id.

    Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017, section 4;
    n ≥ 2f + 3 (its Proposition 1). No departure.
    """

    f: Attackers  # nodes that may lie

    @property
    def min_updates(self) -> int:
        return 2 * self.f + 3

    def reduce(self, stack: Stack) -> list[np.ndarray]:
        enough(self, len(stack), self.min_updates)
        return stack.only([int(np.argmin(scores(stack.distances(), self.f)))]).mean()


@dataclass(frozen=True, slots=True)
class MultiKrum(Part):
    """Δ = mean of the m Δ_k with the best Krum scores; ties by node id.

    Blanchard et al., NeurIPS 2017, section 6. Departure: m ≤ n - f is demanded, or liars would be in it by necessity.
    """

    f: Attackers
    m: Annotated[int, Range(least=1)]

    @property
    def min_updates(self) -> int:
        return max(2 * self.f + 3, self.f + self.m)

    def reduce(self, stack: Stack) -> list[np.ndarray]:
        enough(self, len(stack), self.min_updates)
        best = np.argsort(scores(stack.distances(), self.f), kind="stable")[: self.m]
        return stack.only(sorted(best.tolist())).mean()


def scores(distances: np.ndarray, f: int, rows: Sequence[int] | None = None) -> np.ndarray:
    """Krum's score of each of `rows` (all, by default) among them: [n, n] -> [rows]; the smallest is the best."""
    among = distances if rows is None else distances[np.ix_(rows, rows)]
    n = len(among)
    others = np.sort(among + np.diag(np.full(n, np.inf)), axis=1)[:, : n - 1]  # the last is the distance to itself
    return np.asarray(others[:, : max(n - f - 2, 1)].sum(axis=1))


def enough(rule: Part, received: int, least: int) -> None:
    """RefusedError when too few updates came for the rule to hold."""
    if received < least:
        raise RefusedError(f"strategy.reduction: {rule}: expected at least {least} updates. Received: {received}")
