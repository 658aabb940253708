"""How well scores tell two classes apart, from label-split histograms that were summed over nodes, with error bounds.

Inside a bin the order of readings is lost. Every figure comes with the least and the most it can be whatever that order
was; the value pooled scores would give lies between (tested against exact renderings).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation import histogram

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bounded:
    """A figure and what it can be at least and at most."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Confusion:
    """Readings by label and verdict (score > threshold), right to within the undecided readings of the label.

    Undecided are those in the threshold's own bin; its place there divides them.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    undecided_anomalous: int  # in the threshold's bin
    undecided_normal: int

    @property
    def precision(self) -> float | None:
        """Of the readings with a verdict, the share that is anomalous; None without verdicts."""
        return _share(self.true_positives, self.false_positives)

    @property
    def recall(self) -> float | None:
        """Of the anomalous readings, the share with a verdict; None without anomalous ones."""
        return _share(self.true_positives, self.false_negatives)

    @property
    def false_alert_rate(self) -> float | None:
        """Of the normal readings, the share with a verdict; None without normal ones."""
        return _share(self.false_positives, self.true_negatives)


def auroc(normal: Counts, anomalous: Counts) -> Bounded | None:
    """[BINS] ×2 -> 0…1; pairs in one bin count half. None when one class is missing."""
    value = histogram.auroc(normal, anomalous)
    if value is None:
        return None
    shared = float((normal.astype(np.float64) * anomalous).sum()) / (float(normal.sum()) * float(anomalous.sum()))
    return Bounded(value, value - shared / 2, value + shared / 2)


def average_precision(normal: Counts, anomalous: Counts) -> Bounded | None:
    """Mean over anomalous readings of the precision at a threshold at their own score: [BINS] ×2 -> 0…1, None without.

    With t anomalous and f normal readings above a bin, a and n in it, its j-th anomalous reading has a precision of
    (t + j) / (t + j + f + m). Low: m = n, none equal. High: m = 0, all equal (j = a). Value: m = n·(j - ½) / a, evenly
    mixed. Sums over j are integrals by the midpoint rule, which are not above them, since the terms are concave in j.
    """
    positives = float(anomalous.sum())
    if not positives:
        return None
    filled = np.flatnonzero(anomalous)
    a, n = anomalous[filled].astype(np.float64), normal[filled].astype(np.float64)
    t, f = (_above(counts)[filled] for counts in (anomalous, normal))
    low = _precisions(a, t, at_zero=t + f + n, slope=1.0)
    value = _precisions(a, t, at_zero=t + f - n / (2.0 * a), slope=1.0 + n / a)
    high = a * (t + a) / (t + a + f)
    return Bounded(*(float(part.sum() / positives) for part in (value, low, high)))


def _above(counts: Counts) -> Floats:
    """[BINS] -> how many are in higher bins."""
    above: Floats = np.cumsum(counts[::-1], dtype=np.float64)[::-1] - counts
    return above


def _precisions(a: Floats, t: Floats, *, at_zero: Floats, slope: Floats | float) -> Floats:
    """∫ (t + x) / (at_zero + slope·x) dx from ½ to a + ½, a bin: about Σ over j = 1…a."""
    growth = np.log1p(slope * a / (at_zero + slope / 2.0))
    return np.asarray(a / slope + (t - at_zero / slope) / slope * growth)


def confusion(normal: Counts, anomalous: Counts, *, threshold: float) -> Confusion:
    """[BINS] ×2 and a threshold ≥ 0, as in the manifest."""
    place, share = _place(threshold)
    false_positives = int(normal[place + 1 :].sum()) + round(int(normal[place]) * share)
    true_positives = int(anomalous[place + 1 :].sum()) + round(int(anomalous[place]) * share)
    return Confusion(
        true_positives=true_positives,
        false_positives=false_positives,
        false_negatives=int(anomalous.sum()) - true_positives,
        true_negatives=int(normal.sum()) - false_positives,
        undecided_anomalous=int(anomalous[place]),
        undecided_normal=int(normal[place]),
    )


def _place(threshold: float) -> tuple[int, float]:
    """The threshold's bin, and the share of that bin that counts as above it: geometric, as `histogram.quantile` does.

    In the first bin scores count as 0, in the last as without end.
    """
    place = int(histogram.bin_of(np.array([threshold]))[0])
    if place in (0, histogram.BINS - 1):
        return place, float(place > 0)
    below = np.log2(threshold / histogram.lower_edges()[place]) * histogram.BINS_AN_OCTAVE
    return place, float(np.clip(1.0 - below, 0.0, 1.0))


def _share(part: int, rest: int) -> float | None:
    return part / (part + rest) if part + rest else None
