"""Whether the newest readings are like those that were learnt from, by the population stability index."""

from collections.abc import Callable
from typing import Final

import numpy as np

from dl_mqtt_clients.aggregation import histogram
from dl_mqtt_clients.aggregation.drift import MIN_READINGS, stability_index
from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics

MOST: Final = 4096  # readings compared on either side

Scores = Callable[[np.ndarray], np.ndarray]


class DriftWatch:
    """`index`: the largest over scores and features; None before it is known. Above 0.25 is strong drift."""

    def __init__(self) -> None:
        self.index: float | None = None
        self._learnt: np.ndarray | None = None

    def learnt_from(self, x: np.ndarray) -> None:
        """The training window [n, features] of the last fit: of later readings it is asked whether they are like it."""
        self._learnt = np.array(x[:: max(1, len(x) // MOST)])
        self.index = None

    def look(self, x: np.ndarray, scores: Scores) -> None:
        """At readings that came since then, [n, features]; too few say nothing. Both are scored by the same model."""
        if self._learnt is None or self._learnt.shape[1:] != x.shape[1:]:
            return
        if min(len(x), len(self._learnt)) < MIN_READINGS:
            return
        newest = x[-MOST:]
        then, now = (histogram.count(scores(part)) for part in (self._learnt, newest))
        before, after = (FeatureStatistics.of(part).sketch for part in (self._learnt, newest))
        found = [stability_index(before.dense(f), after.dense(f)) for f in range(x.shape[1])]
        found.append(stability_index(then, now))
        self.index = round(max(index for index in found if index is not None), 4)
