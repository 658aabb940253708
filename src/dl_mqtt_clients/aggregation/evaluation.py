"""What the nodes together know of a version: sums over their held-out readings, scored with exactly that version.

Held-out readings not labelled anomalous give the threshold (never filtered by the present verdict: that feeds on
itself). Where labels exist, the label-split histograms give a federated AUROC.
"""

import numpy as np

from dl_mqtt_clients.aggregation import histogram
from dl_mqtt_clients.wire.messages import Metrics, Statistics


class Evaluation:
    """The statistics of one version; a node that sends again replaces what it sent."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._parts: dict[tuple[str, str], tuple[np.ndarray, np.ndarray, np.ndarray, float, int]] = {}

    def add(self, node: str, role: str, statistics: Statistics) -> None:
        """ValueError when the histograms are not ours. Predictors count for the AUROC only."""
        normal = histogram.from_message(statistics.normal)
        labelled = histogram.from_message(statistics.labelled_normal)
        anomalous = histogram.from_message(statistics.anomalous)
        if role != "trainer":
            normal = np.zeros_like(normal)
        readings = int(normal.sum())
        self._parts[node, role] = (normal, labelled, anomalous, statistics.loss_sum if readings else 0.0, readings)

    def nodes(self, role: str) -> int:
        """How many nodes have answered in this role."""
        return sum(r == role for _, r in self._parts)

    def threshold(self, quantile: float) -> float | None:
        """Score below which a share `quantile` of all held-out readings lies; None when there are none."""
        return histogram.quantile(self._sum(0), quantile)

    def metrics(self, known: Metrics = Metrics()) -> Metrics:  # noqa: B008 - frozen
        """`known` with what the nodes say."""
        readings = sum(part[4] for part in self._parts.values())
        loss = sum(part[3] for part in self._parts.values()) / readings if readings else None
        return Metrics(
            loss=known.loss,
            holdout_loss=loss,
            auroc=histogram.auroc(self._sum(1), self._sum(2)),
            examples=known.examples,
            nodes=known.nodes,
        )

    def _sum(self, place: int) -> np.ndarray:
        total = np.zeros(histogram.BINS, dtype=np.int64)
        for part in self._parts.values():
            total += part[place]  # type: ignore[arg-type]
        return total
