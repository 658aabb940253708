"""The alert threshold all nodes agree on, from the sum of their score histograms.

The histograms are of all held-out readings not labelled anomalous, scored with exactly the version that the threshold
belongs to. They are never filtered by the present verdict: what is left below a 99% quantile has one that is lower
again, and 1% alerts became 39% within 49 rounds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation import histogram


@dataclass(frozen=True, slots=True)
class Threshold:
    """Scores above `value` are anomalies. Known to a bin: within histogram.RELATIVE_ERROR of the pooled quantile."""

    value: float
    alert_rate: float  # asked of the readings counted, 0…1
    alert_rate_error: float  # the rate on exactly these readings is as asked to within this: the bin's share

    @classmethod
    def at_quantile(cls, counts: NDArray[np.int64], quantile: float) -> "Threshold | None":
        """[BINS] counts, 0 ≤ quantile ≤ 1: a share `quantile` lies below. None when nothing was counted."""
        value = histogram.quantile(counts, quantile)
        if value is None:
            return None
        place = int(histogram.bin_of(np.array([value]))[0])
        near = counts[max(place - 1, 0) : place + 2].max()  # a value at an edge rounds into either bin
        return cls(value, 1.0 - quantile, float(near / counts.sum()))

    @classmethod
    def at_alert_rate(cls, counts: NDArray[np.int64], rate: float) -> "Threshold | None":
        """[BINS] counts, 0 ≤ rate ≤ 1: a share `rate` lies above. None when nothing was counted."""
        return cls.at_quantile(counts, 1.0 - rate)
