"""Quantiles of signed features that add up over nodes: fixed log-spaced bins, one row of them a feature.

DDSketch (Masson, Rim, Lee, VLDB 2019, Section 2.1) with γ = 2^(1/16): bin k > 0 holds (γ^(k-1), γ^k] · 2⁻¹²⁶, bin 0
what is nearer to 0, negative values mirror. Departure: no bins are collapsed, since float32 has only 8,129 of them.
Counts add exactly in any order. A quantile is the geometric middle of a reading's own bin: off by at most
2^(1/32) - 1 = 2.2% of itself.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.wire.feature_sums import LAST_BIN

BINS_AN_OCTAVE: Final = 16
FIRST_OCTAVE: Final = -126  # float32's smallest normal number
SPAN: Final = 2 * LAST_BIN + 1
RELATIVE_ERROR: Final = 2.0 ** (0.5 / BINS_AN_OCTAVE) - 1.0  # of a quantile
BIN_WIDTH: Final = 2.0 ** (1.0 / BINS_AN_OCTAVE) - 1.0  # of a bound, which is a bin's outer edge

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def bin_of(x: Floats) -> Ints:
    """Signed bin numbers of finite values within float32's range, of any shape."""
    with np.errstate(divide="ignore"):
        place = np.ceil((np.log2(np.abs(x)) - FIRST_OCTAVE) * BINS_AN_OCTAVE)
    number: Ints = np.clip(place, 0, LAST_BIN).astype(np.int64)
    return np.where(x < 0, -number, number)


def upper_edge(number: Ints) -> Floats:
    """Largest value of signed bins; bins -k and k mirror, and what is in bin 0 counts as 0."""
    size = np.abs(number) - (number < 0)  # the edge of a negative bin that is nearer to 0
    edge: Floats = np.exp2(FIRST_OCTAVE + size / BINS_AN_OCTAVE)
    return np.where(number == 0, 0.0, np.where(number < 0, -edge, edge))


def lower_edge(number: Ints) -> Floats:
    return -upper_edge(-number)


def middle(number: Ints) -> Floats:
    """Geometric middle of signed bins; 0 for bin 0."""
    edge = np.exp2(FIRST_OCTAVE + (np.abs(number) - 0.5) / BINS_AN_OCTAVE)
    return np.asarray(np.sign(number) * edge, dtype=np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class Sketch:
    """Filled bins of all features: key = feature · SPAN + bin + LAST_BIN. `a + b` counts what both counted."""

    features: int
    keys: Ints  # [filled], rising
    counts: Ints  # [filled], > 0

    @classmethod
    def empty(cls, features: int) -> Self:
        return cls(features, np.zeros(0, np.int64), np.zeros(0, np.int64))

    @classmethod
    def of(cls, x: Floats, is_counted: NDArray[np.bool_]) -> Self:
        """[n, features] ×2; what is counted must be finite."""
        keys = np.arange(x.shape[1]) * SPAN + LAST_BIN + bin_of(np.where(is_counted, x, 0.0))
        filled, counts = np.unique(keys[is_counted], return_counts=True)
        return cls(x.shape[1], filled, counts.astype(np.int64))

    def __add__(self, other: Self) -> Self:
        keys, place = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return type(self)(self.features, keys, counts)

    def of_feature(self, feature: int) -> tuple[Ints, Ints]:
        """Signed numbers and counts of one feature's filled bins, rising."""
        start, stop = np.searchsorted(self.keys, [feature * SPAN, (feature + 1) * SPAN])
        return self.keys[start:stop] - feature * SPAN - LAST_BIN, self.counts[start:stop]

    def dense(self, feature: int) -> Ints:
        """[SPAN] counts of one feature's bins, from the most negative to the largest."""
        numbers, counts = self.of_feature(feature)
        row = np.zeros(SPAN, np.int64)
        row[numbers + LAST_BIN] = counts
        return row

    def quantile(self, q: float) -> Floats:
        """[features]: the reading of rank ceil(q·n), to within RELATIVE_ERROR; 0 where nothing was counted."""
        return middle(self._bin_at(q))

    def bounds(self) -> tuple[Floats, Floats]:
        """[features] ×2: low ≤ every reading ≤ high, each too wide by at most BIN_WIDTH of itself."""
        return lower_edge(self._bin_at(0.0)), upper_edge(self._bin_at(1.0))

    def _bin_at(self, q: float) -> Ints:
        """[features]: signed number of the bin that holds the quantile; 0 where nothing was counted."""
        if not len(self.keys):
            return np.zeros(self.features, np.int64)
        first = np.searchsorted(self.keys, np.arange(self.features + 1) * SPAN)
        reached = np.concatenate([[0], np.cumsum(self.counts)])
        before, total = reached[first[:-1]], np.diff(reached[first])
        rank = np.clip(np.ceil(q * total), 1, np.maximum(total, 1)).astype(np.int64)
        place = np.minimum(np.searchsorted(reached[1:], before + rank), len(self.keys) - 1)
        return np.where(total > 0, self.keys[place] - np.arange(self.features) * SPAN - LAST_BIN, 0)
