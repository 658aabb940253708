"""What a node tells of its raw readings so that all agree on a scaler: sums that add up, never a reading.

Count, mean and M2 = Σ(x - mean)² merge exactly up to rounding (Chan, Golub, LeVeque, "Algorithms for computing the
sample variance", The American Statistician 37(3), 1983, Eq. 2.1; technical report 1979). A sketch of log-spaced bins
gives quantiles and bounds; smallest and largest reading are not sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Final, Self

import numpy as np
from numpy.typing import ArrayLike

from dl_mqtt_clients.aggregation.histogram import MAX_COUNT
from dl_mqtt_clients.aggregation.sketch import SPAN, Floats, Ints, Sketch
from dl_mqtt_clients.wire.feature_sums import LAST_BIN, FeatureSums

LARGEST: Final = float(np.finfo(np.float32).max)  # beyond, a reading counts as infinite
_SLACK: Final = 1e-9  # relative: rounding of sums and of bins' edges


@dataclass(frozen=True, eq=False, slots=True)
class FeatureStatistics:
    """Sums over readings, each [features]. `a + b` is what both saw together, in any order."""

    count: Ints  # finite readings
    missing: Ints  # NaN, infinite, or beyond float32
    mean: Floats  # of the finite ones; 0 where there are none
    m2: Floats  # Σ(x - mean)², ≥ 0
    sketch: Sketch

    @classmethod
    def empty(cls, features: int) -> Self:
        counts, sums = np.zeros(features, np.int64), np.zeros(features)
        return cls(counts, counts, sums, sums, Sketch.empty(features))

    @classmethod
    def of(cls, x: ArrayLike) -> Self:
        """Readings [n, features], n ≥ 0. ValueError for another shape."""
        rows = np.asarray(x, dtype=np.float64)
        if rows.ndim != 2:
            raise ValueError(f"feature statistics: expected readings [n, features]. Received: shape {rows.shape}")
        with np.errstate(invalid="ignore"):
            is_finite = np.abs(rows) <= LARGEST
        count = is_finite.sum(axis=0)
        divisor = np.maximum(count, 1)
        rows = np.where(is_finite, rows, 0.0)
        about = rows.sum(axis=0) / divisor
        rest = np.where(is_finite, rows - about, 0.0)
        shift = rest.sum(axis=0) / divisor  # what rounding of the first pass left
        m2 = np.maximum(np.square(rest).sum(axis=0) - count * np.square(shift), 0.0)
        return cls(count, len(rows) - count, about + shift, m2, Sketch.of(rows, is_finite))

    @property
    def features(self) -> int:
        return len(self.count)

    @property
    def variance(self) -> Floats:
        """[features], of the population; 0 where nothing was counted."""
        return self.m2 / np.maximum(self.count, 1)

    def __add__(self, other: Self) -> Self:
        if self.features != other.features:
            raise ValueError(
                f"feature statistics: expected the same features. Received: {self.features} and {other.features}"
            )
        count = self.count + other.count
        divisor = np.maximum(count, 1)
        apart = other.mean - self.mean
        return type(self)(
            count,
            self.missing + other.missing,
            (self.count * self.mean + other.count * other.mean) / divisor,
            self.m2 + other.m2 + np.square(apart) * self.count * (other.count / divisor),
            self.sketch + other.sketch,
        )

    def to_message(self) -> tuple[FeatureSums, ...]:
        return tuple(self._sums(feature) for feature in range(self.features))

    def _sums(self, feature: int) -> FeatureSums:
        numbers, counts = self.sketch.of_feature(feature)
        return FeatureSums(
            count=int(self.count[feature]),
            missing=int(self.missing[feature]),
            mean=float(self.mean[feature]),
            m2=float(self.m2[feature]),
            bins=tuple(numbers.tolist()),
            counts=tuple(counts.tolist()),
        )

    @classmethod
    def from_message(cls, sums: Sequence[FeatureSums], *, features: int, max_readings: int = MAX_COUNT) -> Self:
        """ValueError, naming the feature's place, when the sums do not fit together or are too large.

        `max_readings`: a node's count is its own word, and weighs its mean: pass what a node can hold.
        """
        if len(sums) != features:
            raise ValueError(f"feature statistics: expected {features} features. Received: {len(sums)}")
        for place, part in enumerate(sums):
            if mistake := _mistake(part, max_readings):
                raise ValueError(f"feature statistics: feature {place}: {mistake}")
        sizes = np.array([len(part.bins) for part in sums], np.int64)
        numbers = np.fromiter(chain.from_iterable(part.bins for part in sums), np.int64, int(sizes.sum()))
        counts = np.fromiter(chain.from_iterable(part.counts for part in sums), np.int64, len(numbers))
        keys = np.repeat(np.arange(features), sizes) * SPAN + LAST_BIN + numbers
        received = cls(
            np.array([part.count for part in sums], np.int64),
            np.array([part.missing for part in sums], np.int64),
            np.array([part.mean for part in sums], np.float64),
            np.array([part.m2 for part in sums], np.float64),
            Sketch(features, keys, counts),
        )
        received._check_moments()
        return received

    def _check_moments(self) -> None:
        """Mean and variance must be possible for what the sketch counted (Popoviciu: variance ≤ range² / 4)."""
        low, high = self.sketch.bounds()
        slack = _SLACK * np.maximum(np.abs(low), np.abs(high)) + 2.0**-126  # bin 0 is as wide
        fits = (self.mean >= low - slack) & (self.mean <= high + slack)
        fits &= self.variance <= np.square(high - low + 2 * slack) / 4
        if not fits.all():
            place = int(np.flatnonzero(~fits)[0])
            raise ValueError(
                f"feature statistics: feature {place}: expected mean and variance within its bins "
                f"({low[place]:.6g} … {high[place]:.6g}). Received: {self.mean[place]:.6g}, {self.variance[place]:.6g}"
            )


def _mistake(part: FeatureSums, max_readings: int) -> str:
    """What is wrong with one feature's sums by themselves; empty when nothing is."""
    if part.count + part.missing > max_readings:
        return f"expected at most {max_readings} readings. Received: {part.count + part.missing}"
    if not (np.isfinite(part.mean) and np.isfinite(part.m2) and part.m2 >= 0):
        return f"expected a finite mean and m2 ≥ 0. Received: {part.mean}, {part.m2}"
    if len(part.bins) != len(part.counts):
        return f"expected as many counts as bins. Received: {len(part.counts)} and {len(part.bins)}"
    if sum(part.counts) != part.count or min(part.counts, default=1) < 1:
        return f"expected counts above 0 that add up to {part.count}. Received: {sum(part.counts)}"
    is_rising = all(a < b for a, b in pairwise(part.bins))
    if part.bins and not (is_rising and part.bins[0] >= -LAST_BIN and part.bins[-1] <= LAST_BIN):
        return f"expected rising bins from {-LAST_BIN} to {LAST_BIN}. Received: {part.bins[0]} … {part.bins[-1]}"
    return ""
