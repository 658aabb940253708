"""How far a distribution has moved since the model was trained: the population stability index.

    PSI = Σ (p - q) · ln(p / q)  over groups of bins; p, q: their shares then and now, (count + ½) / (n + ½·groups)

which is Kullback and Leibler's divergence both ways. Below 0.1 nothing is said to have happened, above 0.25 much
(convention; Siddiqi, "Credit risk scorecards", 2006, chapter 9). Departure: the ten groups are deciles of both
histograms together, not of the first alone, or values that were never seen before would have no group of their own.

Without drift PSI is about (1/n + 1/m) · χ² with groups - 1 degrees of freedom (Yurdakul, Naranjo, "Statistical
properties of the population stability index", Journal of Risk Model Validation 14(4), 2020): 0.009 for ten groups of
2,000 readings each, but 0.18 of 100. So fewer than `MIN_READINGS` say nothing. Readings that resemble their neighbours
count as fewer.

Counts add up over nodes and over time: the PSI of sums is that of the pooled readings.
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

GROUPS: Final = 10
SMOOTHING: Final = 0.5  # of a reading, added to every group
MODERATE: Final = 0.1
STRONG: Final = 0.25
MIN_READINGS: Final = 500  # then 99.9% of PSIs without drift are below 0.112, of ten groups

Drift = Literal["unknown", "none", "moderate", "strong"]
Counts = NDArray[np.int64]


def stability_index(then: Counts, now: Counts, *, groups: int = GROUPS) -> float | None:
    """PSI ≥ 0 between two histograms over the same bins in their order, [bins] each; None when one is empty.

    ValueError for histograms of different bins.
    """
    if then.shape != now.shape or then.ndim != 1:
        raise ValueError(f"drift: expected two histograms of the same bins. Received: {then.shape} and {now.shape}")
    if not then.any() or not now.any():
        return None
    filled = (then > 0) | (now > 0)
    group = _groups(then[filled], now[filled], groups)
    first, second = _shares(then[filled], group), _shares(now[filled], group)
    return float(((first - second) * np.log(first / second)).sum())


def drift(then: Counts, now: Counts) -> tuple[Drift, float | None]:
    """What the index says, in a word, and the index; `unknown` below MIN_READINGS on either side."""
    index = stability_index(then, now)
    if index is None or min(int(then.sum()), int(now.sum())) < MIN_READINGS:
        return "unknown", index
    return "strong" if index >= STRONG else "moderate" if index >= MODERATE else "none", index


def _groups(then: Counts, now: Counts, groups: int) -> Counts:
    """[filled bins] -> group of each: quantiles of both histograms, each weighing half; a bin is never divided."""
    share = then / then.sum() + now / now.sum()
    middle = (np.cumsum(share) - share / 2) / 2.0
    place: Counts = np.minimum((middle * groups).astype(np.int64), groups - 1)
    return np.unique(place, return_inverse=True)[1]


def _shares(counts: Counts, group: Counts) -> NDArray[np.float64]:
    grouped = np.bincount(group, weights=counts) + SMOOTHING
    return np.asarray(grouped / grouped.sum(), dtype=np.float64)
