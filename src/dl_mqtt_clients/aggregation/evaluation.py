"""What the nodes together know of a version: sums over their held-out readings, scored with exactly that version.

Held-out readings not labelled anomalous give the threshold (never filtered by the present verdict: that feeds on
itself). Where labels exist, the label-split histograms give a federated AUROC. Each trainer scores the best version
before on the same readings, so that the two can be compared as pairs.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from dl_mqtt_clients.aggregation import classification, histogram
from dl_mqtt_clients.aggregation.promotion import Quality
from dl_mqtt_clients.aggregation.spread import Spread as NodeSpread
from dl_mqtt_clients.wire.messages import Found, Metrics, Spread, Statistics, Verdicts

LARGEST: Final = float(np.finfo(np.float32).max)  # stands for scores that are no number: JSON has none for them


@dataclass(frozen=True, eq=False, slots=True)
class Sums:
    """Of one version's scores on one node's readings; they add up over nodes. Histograms are [BINS] int64."""

    normal: np.ndarray  # not labelled anomalous
    labelled_normal: np.ndarray
    anomalous: np.ndarray
    loss_sum: float  # of the scores in `normal`
    readings: int  # in `normal`

    @classmethod
    def of(cls, scores: np.ndarray, labels: np.ndarray) -> Self:
        """Scores [n] ≥ 0 and labels [n] (-1 unknown, 0 normal, above 0 anomalous)."""
        normal = scores[labels <= 0]
        return cls(
            normal=histogram.count(normal),
            labelled_normal=histogram.count(scores[labels == 0]),
            anomalous=histogram.count(scores[labels > 0]),
            loss_sum=float(np.nan_to_num(normal, nan=LARGEST, posinf=LARGEST).sum(dtype=np.float64)),
            readings=len(normal),
        )

    @classmethod
    def from_message(cls, found: Found) -> Self:
        """ValueError when the histograms are not ours."""
        normal = histogram.from_message(found.normal)
        return cls(
            normal=normal,
            labelled_normal=histogram.from_message(found.labelled_normal),
            anomalous=histogram.from_message(found.anomalous),
            loss_sum=found.loss_sum,
            readings=int(normal.sum()),
        )

    def to_message(self) -> Found:
        return Found(
            normal=histogram.to_message(self.normal),
            labelled_normal=histogram.to_message(self.labelled_normal),
            anomalous=histogram.to_message(self.anomalous),
            loss_sum=self.loss_sum,
            readings=self.readings,
        )

    def quality(self) -> Quality | None:
        """None when nothing was held out."""
        if not self.readings:
            return None
        return Quality(self.loss_sum / self.readings, histogram.auroc(self.labelled_normal, self.anomalous))


class Evaluation:
    """The statistics of one version, and of the best before it; a node that sends again replaces what it sent."""

    def __init__(self, version: str, *, best: str | None = None) -> None:
        self.version = version
        self.best = best
        self._found: dict[tuple[str, str], Sums] = {}
        self._of_best: dict[str, Sums] = {}

    def add(self, node: str, role: str, statistics: Statistics) -> None:
        """ValueError when the histograms are not ours. Predictors count for the AUROC only."""
        found = Sums.from_message(statistics.found)
        if role == "trainer" and self.best is not None and statistics.best == self.best and statistics.found_of_best:
            self._of_best[node] = Sums.from_message(statistics.found_of_best)
        self._found[node, role] = found

    def nodes(self, role: str) -> int:
        """How many nodes have answered in this role."""
        return sum(r == role for _, r in self._found)

    def threshold(self, quantile: float) -> float | None:
        """Score below which a share `quantile` of all held-out readings lies; None when there are none."""
        return histogram.quantile(_total(s.normal for s in self._of_trainers().values()), quantile)

    def qualities(self) -> tuple[dict[str, Quality], dict[str, Quality] | None]:
        """Node -> quality of this version, and of the best; None when there is none to compare with."""
        best = None if self.best is None else _qualities(self._of_best)
        return _qualities(self._of_trainers()), best

    def metrics(self, known: Metrics = Metrics(), *, threshold: float | None = None) -> Metrics:  # noqa: B008 - frozen
        """`known` with what the nodes say; verdicts at `threshold`."""
        trainers, everybody = self._of_trainers(), self._found
        readings = sum(s.readings for s in trainers.values())
        normal = _total(s.labelled_normal for s in everybody.values())
        anomalous = _total(s.anomalous for s in everybody.values())
        auroc, precision = classification.auroc(normal, anomalous), classification.average_precision(normal, anomalous)
        return Metrics(
            loss=known.loss,
            holdout_loss=sum(s.loss_sum for s in trainers.values()) / readings if readings else None,
            auroc=auroc.value if auroc else None,
            average_precision=precision.value if precision else None,
            verdicts=_verdicts(normal, anomalous, threshold),
            loss_spread=_spread({n: s.loss_sum / s.readings for n, s in trainers.items() if s.readings}),
            auroc_spread=_spread(_aurocs(everybody), larger_is_better=True),
            examples=known.examples,
            nodes=known.nodes,
        )

    def _of_trainers(self) -> dict[str, Sums]:
        return {node: sums for (node, role), sums in self._found.items() if role == "trainer"}


def _total(histograms: Iterable[np.ndarray]) -> np.ndarray:
    total = np.zeros(histogram.BINS, dtype=np.int64)
    for counts in histograms:
        total += counts
    return total


def _aurocs(found: dict[tuple[str, str], Sums]) -> dict[str, float]:
    """Of the nodes that have readings of both labels; of one that trains and predicts what its predictor saw."""
    aurocs = {n: histogram.auroc(s.labelled_normal, s.anomalous) for (n, _), s in sorted(found.items(), reverse=True)}
    return {node: auroc for node, auroc in aurocs.items() if auroc is not None}


def _verdicts(normal: np.ndarray, anomalous: np.ndarray, threshold: float | None) -> Verdicts | None:
    if threshold is None or not (normal.any() or anomalous.any()):
        return None
    found = classification.confusion(normal, anomalous, threshold=threshold)
    return Verdicts(
        true_positives=found.true_positives,
        false_positives=found.false_positives,
        false_negatives=found.false_negatives,
        true_negatives=found.true_negatives,
    )


def _spread(values: dict[str, float], *, larger_is_better: bool = False) -> Spread | None:
    found = NodeSpread.of(values, larger_is_better=larger_is_better)
    if found is None:
        return None
    return Spread(worst=found.worst, median=found.median, best=found.best, worst_node=found.worst_node)


def _qualities(found: dict[str, Sums]) -> dict[str, Quality]:
    return {node: quality for node, sums in found.items() if (quality := sums.quality()) is not None}
