"""Histograms of scores that add up over nodes: fixed log-spaced bins, so that everybody counts alike.

Bin 0 holds scores < 2⁻⁴⁰; above, 32 bins an octave up to 2²⁴, so a bin is 2.2% wide. Quantile and AUROC of the sum
are exact up to one bin (tested): |q̂/q - 1| ≤ 2^(1/32) - 1.
"""

from typing import Final

import numpy as np

from dl_mqtt_clients.wire.messages import Histogram

OCTAVES: Final = (-40, 24)
BINS_AN_OCTAVE: Final = 32
BINS: Final = (OCTAVES[1] - OCTAVES[0]) * BINS_AN_OCTAVE + 2
MAX_COUNT: Final = 2**40  # readings of one node: eight million such still add up in 64 bits
RELATIVE_ERROR: Final = 2.0 ** (1.0 / BINS_AN_OCTAVE) - 1.0


def bin_of(scores: np.ndarray) -> np.ndarray:
    """Bin numbers of scores ≥ 0: [n] -> [n] int64; infinities and NaN in the last bin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.floor((np.log2(scores, dtype=np.float64) - OCTAVES[0]) * BINS_AN_OCTAVE) + 1
    place = np.nan_to_num(place, nan=BINS - 1, posinf=BINS - 1, neginf=0)
    bins: np.ndarray = np.clip(place, 0, BINS - 1).astype(np.int64)
    return bins


def lower_edges() -> np.ndarray:
    """Lower edge of every bin, [BINS]; bin 0 starts at 0."""
    edges: np.ndarray = np.concatenate([[0.0], 2.0 ** (OCTAVES[0] + np.arange(BINS - 1) / BINS_AN_OCTAVE)])
    return edges


def count(scores: np.ndarray) -> np.ndarray:
    """Dense counts of scores: [n] -> [BINS] int64."""
    return np.bincount(bin_of(scores), minlength=BINS)


def to_message(counts: np.ndarray) -> Histogram:
    filled = np.flatnonzero(counts)
    return Histogram(bins=tuple(filled.tolist()), counts=tuple(counts[filled].tolist()))


def from_message(message: Histogram) -> np.ndarray:
    """Dense counts [BINS]. ValueError when it is not one of ours, or so large that sums of many might overflow."""
    if sum(message.counts) > MAX_COUNT:
        raise ValueError(f"histogram: expected at most {MAX_COUNT} readings")
    bins = np.asarray(message.bins, dtype=np.int64)
    if len(message.bins) != len(message.counts) or (
        bins.size and (bins.max() >= BINS or np.unique(bins).size != bins.size)
    ):
        raise ValueError(f"histogram: expected distinct bins below {BINS}, with as many counts")
    counts = np.zeros(BINS, dtype=np.int64)
    counts[bins] = np.asarray(message.counts, dtype=np.int64)
    return counts


def quantile(counts: np.ndarray, q: float) -> float | None:
    """Score below which a share q of the counted lies, geometric inside its bin; None when nothing was counted."""
    total = int(counts.sum())
    if total == 0:
        return None
    reached = np.cumsum(counts)
    wanted = min(max(q * total, 1.0), float(total))  # the first reading's bin for q = 0
    place = int(np.searchsorted(reached, wanted, side="left"))
    if place in (0, BINS - 1):
        return float(lower_edges()[place])
    before = int(reached[place - 1])
    share = (wanted - before) / int(counts[place])
    low = float(lower_edges()[place])
    return float(low * 2.0 ** (share / BINS_AN_OCTAVE))


def auroc(normal: np.ndarray, anomalous: np.ndarray) -> float | None:
    """P(score anomalous > score normal), ties in a bin half; None when one class is missing."""
    negatives, positives = int(normal.sum()), int(anomalous.sum())
    if not negatives or not positives:
        return None
    below = np.cumsum(normal) - normal
    return float(((below + 0.5 * normal) * anomalous).sum() / (negatives * positives))
