"""The scaler all nodes agree on, made from their summed statistics: scaled = (x - offset) × scale, a feature.

`standard` is exact: equal to a fit on the pooled readings. `minmax` and `robust` come from the sketch, whose error is
relative to the *value*: where it could be more than a quarter of the spread (a time stamp, an inode number), or the
spread is 0 (a robust one of a rare flag), that feature is scaled as `standard`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.aggregation.sketch import BIN_WIDTH, RELATIVE_ERROR, Floats
from dl_mqtt_clients.errors import RefusedError

ScalerKind = Literal["standard", "minmax", "robust"]
Vector = NDArray[np.float32]

_CONSTANT_BELOW: Final = 1e-9  # of the feature's magnitude: rounding of 32-bit floats, not information
_QUARTILES_APART: Final = 1.3489795003921634  # of a normal distribution of variance 1
_WORST_ERROR: Final = 0.25  # of the spread


@dataclass(frozen=True, eq=False, slots=True)
class Scaler:
    """Values for a `Scaling` layer: offset, scale [features], float32, finite; scale > 0; codes [categories, size]."""

    offset: Vector
    scale: Vector
    unscaled: tuple[int, ...]  # features that fewer than `min_nodes` nodes have values of: offset 0, scale 1
    codes: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @classmethod
    def identity(cls, features: int) -> Self:
        return cls(np.zeros(features, np.float32), np.ones(features, np.float32), ())

    def beside(self, codes: Vector, numeric: Sequence[int], features: int) -> Self:
        """For all features: ours are those at the places `numeric`, the categorical ones at the others."""
        every = type(self).identity(features)
        every.offset[numeric], every.scale[numeric] = self.offset, self.scale
        return type(self)(every.offset, every.scale, tuple(numeric[place] for place in self.unscaled), codes)


def scaler_from(
    statistics: Mapping[str, FeatureStatistics], kind: ScalerKind = "standard", *, min_nodes: int
) -> Scaler:
    """Node -> its statistics. The same bits for the same nodes, in whatever order they came.

    standard: (x - mean) / standard deviation · minmax: the bins' outer edges to 0…1, no reading falls outside ·
    robust: (x - median) / (quartile distance / 1.349). A constant feature keeps scale 1.
    RefusedError with fewer than `min_nodes` contributors: the sum would tell too much of each.
    """
    heard = {node: part for node, part in sorted(statistics.items()) if part.count.any()}
    if len(heard) < max(min_nodes, 1):
        raise RefusedError(f"scaler: expected statistics of at least {max(min_nodes, 1)} nodes. Received: {len(heard)}")
    contributors = np.sum([part.count > 0 for part in heard.values()], axis=0)
    first, *rest = heard.values()
    total = sum(rest, start=first)
    offset, spread = _chosen(total, kind)
    is_scaled = contributors >= max(min_nodes, 1)
    scale = inverse(spread, np.maximum(np.abs(offset), np.abs(total.mean)))
    return Scaler(
        rounded(np.where(is_scaled, offset, 0.0)),
        rounded(np.where(is_scaled, scale, 1.0)),
        tuple(np.flatnonzero(~is_scaled).tolist()),
    )


def _chosen(total: FeatureStatistics, kind: ScalerKind) -> tuple[Floats, Floats]:
    """Offset and spread, [features] each."""
    mean, deviation = total.mean, np.sqrt(total.variance)
    if kind == "standard":
        return mean, deviation
    if kind == "minmax":
        low, high = total.sketch.bounds()
        offset, spread, error = low, high - low, BIN_WIDTH * (np.abs(low) + np.abs(high))
    else:
        low, offset, high = (total.sketch.quantile(q) for q in (0.25, 0.5, 0.75))
        spread, error = (high - low) / _QUARTILES_APART, RELATIVE_ERROR * (np.abs(low) + np.abs(high))
    is_known = (spread > 0) & (error <= _WORST_ERROR * spread)
    return np.where(is_known, offset, mean), np.where(is_known, spread, deviation)


def inverse(spread: Floats, magnitude: Floats) -> Floats:
    """Scales of these spreads, ≥ 0; 1 where a feature is constant for its magnitude, ≥ 0."""
    varies = (spread > _CONSTANT_BELOW * magnitude) & (spread > 1.0 / float(np.finfo(np.float32).max))
    return np.asarray(1.0 / np.where(varies, spread, 1.0))


def rounded(values: Floats) -> Vector:
    """To what 32 bits hold; a scale never becomes 0."""
    limits = np.finfo(np.float32)
    held = np.clip(values, float(limits.min), float(limits.max)).astype(np.float32)
    return np.where((held == 0) & (values != 0), np.copysign(limits.tiny, values), held).astype(np.float32)
