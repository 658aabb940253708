"""Statistics (BatchNormalization's means and variances): weighted mean by examples, whatever the strategy.

With m_k, v_k a node's mean and variance, w_k = n_k / n:

    m = Σ w_k m_k        v = Σ w_k (v_k + (m_k - m)²) = Σ w_k (v_k + (m_k - b)²) - (m - b)²

for any b; b is the base's mean, so what a node adds to the sum depends on its own update alone. This is the variance of
all nodes' batches put together (Chan, Golub, LeVeque 1979, Updating Formulae). A server step is never applied: FedAdam
made a variance negative. Robust reductions do not protect statistics.
"""

from collections.abc import Sequence

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.strategies.layout import Layout
from dl_mqtt_clients.errors import RefusedError


class StatisticSum:
    """The running sum over the statistics of a round's updates. `base`: the version's arrays, one a place."""

    def __init__(self, layout: Layout, base: Sequence[np.ndarray], *, max_delta: float, max_weight: float) -> None:
        self._layout = layout
        self._base = {place: base[place].astype(np.float64) for place in layout.variances}
        bits = scale_bits(max_abs=max_delta * (1.0 + max_delta), max_weight=max_weight)
        self._sum = RunningSum([layout.shapes[place] for place in layout.statistics], bits=bits)

    def moments(self, arrays: Sequence[np.ndarray], scale: float) -> list[np.ndarray]:
        """What an update adds, one array a statistic."""
        return [self._moment(arrays, place, scale) for place in self._layout.statistics]

    def check(self, moments: Sequence[np.ndarray], examples: int, *, reserved: float) -> float:
        """Largest fixed-point value they may add, see RunningSum. RefusedError when the sum cannot take them."""
        return self._sum.check(moments, examples, reserved=reserved) if moments else 0.0

    def add(self, moments: Sequence[np.ndarray], examples: int, *, largest: float) -> None:
        if moments:
            self._sum.add(moments, weight=examples, largest=largest)

    def change(self) -> list[np.ndarray]:
        """What the version's statistics change by, float64; a variance never falls below 0."""
        if not self._layout.statistics:
            return []
        means = dict(zip(self._layout.statistics, self._sum.mean(), strict=True))
        return [self._settled(place, means) for place in self._layout.statistics]

    def _moment(self, arrays: Sequence[np.ndarray], place: int, scale: float) -> np.ndarray:
        change = arrays[place].astype(np.float64) * scale
        if arrays[place].shape != self._layout.shapes[place]:
            raise RefusedError("update has other shapes than the model")
        if place not in self._base:
            return change
        mean = self._layout.variances[place]
        base = self._base[place]
        change = np.maximum(base + change, 0.0) - base  # a node's own variance is not below 0 either
        return change if mean is None else change + (arrays[mean].astype(np.float64) * scale) ** 2

    def _settled(self, place: int, means: dict[int, np.ndarray]) -> np.ndarray:
        if place not in self._base:
            return means[place]
        mean = self._layout.variances[place]
        change = means[place] if mean is None else means[place] - means[mean] ** 2
        return np.asarray(np.maximum(change, -self._base[place]))
