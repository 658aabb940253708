"""How well scores tell two classes apart. Exact, from ranks; NumPy only."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError


def auroc(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Chance that an anomalous reading scores above a normal one, ties counting half: [n] ×2 -> 0…1.

    None when one class is missing. `labels`: 0 or False is normal. Mann-Whitney U / (positives × negatives).
    """
    score, positive = _pair(scores, labels)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = float(middle_rank[inverse][positive].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float | None:
    """Σ (recall step × precision) over falling thresholds, tied scores taken together: [n] ×2 -> 0…1.

    None when there is no anomalous reading.
    """
    score, positive = _pair(scores, labels)
    positives = int(positive.sum())
    if not positives:
        return None
    order = np.argsort(-score, kind="stable")
    last_of_tie = np.append(np.diff(score[order]) != 0, True)
    found = np.cumsum(positive[order])[last_of_tie]
    seen = np.arange(1, len(score) + 1)[last_of_tie]
    return float(np.sum(np.diff(found, prepend=0) / positives * found / seen))


def _pair(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    score = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(labels).astype(bool)
    if score.ndim != 1 or score.shape != positive.shape:
        raise ModelError(
            f"scores and labels: expected two vectors of one length. Received: {score.shape} and {positive.shape}"
        )
    if np.isnan(score).any():
        raise ModelError("scores: expected numbers. Received: NaN")
    return score, positive
