"""The predictor: scores every reading of its stream with the production model.

Whatever has arrived is scored in one call; a new model is taken between two such calls, so no reading is missed.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import numpy as np

from dl_mqtt_clients.aggregation import histogram
from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.readings import Batch
from dl_mqtt_clients.data.window import Window
from dl_mqtt_clients.errors import ModelError, TransferError
from dl_mqtt_clients.services.from_settings import with_brokers
from dl_mqtt_clients.services.node import Node
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import Anomaly, Manifest, NodeStatus, Scores, Statistics, decode, encode
from dl_mqtt_clients.wire.topics import Role, Stage, for_node
from dl_mqtt_clients.wire.weights import decode as decode_weights

log = logging.getLogger(__name__)

LABELLED: Final = 4096  # newest labelled readings kept to measure a new model on


class Predictor(Node):
    """Publishes score, verdict and model version of each reading. `on_scores(scores)` hears them too."""

    role: ClassVar[Role] = "predictor"
    stage: ClassVar[Stage] = "production"

    def __init__(
        self,
        node_id: str | None = None,
        *,
        settings: Settings | None = None,
        broker: str | None = None,
        data_broker: str | None = None,
        on_scores: Callable[[Scores], None] = lambda _scores: None,
    ) -> None:
        settings = with_brokers(settings, broker, data_broker)
        super().__init__(settings.replace(**{"node.id": node_id}) if node_id else settings)
        self._on_scores = on_scores
        self._wait_s = self.settings.predictor.max_wait_ms / 1000.0
        self._max_batch = self.settings.predictor.max_batch
        self._score_topic = for_node(self.settings.data_broker.score_topic, self.node_id)
        self._anomaly_topic = self.topics.anomaly(self.node_id)
        self._scored = self._anomalies = self._suppressed = 0
        self._allowance = float(self.settings.predictor.anomalies_per_minute)
        self._allowance_at = time.monotonic()
        self._labelled: Window | None = None
        self.stream = ReadingStream(self.loop, self.settings, role=self.role, on_arrival=self._arrived)

    # ---- life ----

    def _start(self) -> None:
        super()._start()
        self._load()

    def _finish(self) -> None:
        self._score()
        super()._finish()

    def _subscriptions(self) -> Sequence[str]:
        return ()

    def _message(self, delivery: Delivery) -> None:
        pass  # nothing else is subscribed

    # ---- the model ----

    def _adopt(self, manifest: Manifest, weights: Sequence[np.ndarray]) -> None:
        if self.model is None:
            return
        if any(not np.isfinite(w).all() for w in weights):
            raise ModelError("weights: they hold NaN or infinity")
        self.model.set_weights(weights)
        self.manifest = manifest
        self.state = "scoring"
        self._store(manifest, weights)
        self._measure()
        self._score()

    def _store(self, manifest: Manifest, weights: Sequence[np.ndarray]) -> None:
        """Keep the production model, to start from it without broker or manager."""
        if self.model is None or weights is self._loaded:
            return
        from dl_mqtt_clients.wire.weights import encode as encode_weights  # noqa: PLC0415

        write_atomically(self.folder / "architecture.json", self.model.architecture)
        write_atomically(self.folder / "weights.safetensors", encode_weights(weights))
        write_atomically(self.folder / "production.json", encode(manifest))

    _loaded: Sequence[np.ndarray] = ()

    def _load(self) -> None:
        """Start from the model on disk, if there is one that fits together."""
        try:
            manifest = decode((self.folder / "production.json").read_bytes(), Manifest)
            self._rebuild(manifest, (self.folder / "architecture.json").read_bytes())
            data = (self.folder / "weights.safetensors").read_bytes()
            self._loaded = decode_weights(data, manifest.variables)
            self._adopt(manifest, self._loaded)
        except FileNotFoundError:
            return
        except (OSError, ModelError, TransferError) as error:
            self._refuse_model(f"the one on disk: {error}")
            return
        log.info("started from version %d on disk", manifest.number)

    def _measure(self) -> None:
        """Score the newest labelled readings with the new version and send the sums: the federation's AUROC."""
        if self._labelled is None or self.model is None or self.manifest is None:
            return
        recent = self._labelled.snapshot()
        if not len(recent):
            return
        scores = self.model.scores(recent.x)
        statistics = Statistics(
            version=self.manifest.version,
            labelled_normal=histogram.to_message(histogram.count(scores[recent.labels == 0])),
            anomalous=histogram.to_message(histogram.count(scores[recent.labels > 0])),
        )
        self.link.send(self.topics.statistics(self.node_id, self.role), statistics)

    # ---- readings ----

    def _arrived(self) -> None:
        if len(self.stream or ()) >= self._max_batch:
            self._score()
        elif not self.loop.pending("score"):
            self.loop.at("score", self._wait_s, self._score)

    def _score(self) -> None:
        """Score and publish everything that has arrived."""
        self.loop.cancel("score")
        if self.manifest is None or self.model is None or self.stream is None:
            return
        while (batch := self.stream.take(self._max_batch)) is not None:
            if len(batch):
                self._publish(batch)
        self.status.changed()

    def _publish(self, batch: Batch) -> None:
        if self.model is None or self.manifest is None or self.stream is None:
            return
        scores, outputs = self.model.predict(batch.x)
        threshold = self.manifest.threshold
        verdicts = np.zeros(len(batch), bool) if threshold is None else scores > threshold
        message = Scores(
            node=self.node_id,
            version=self.manifest.version,
            number=self.manifest.number,
            threshold=threshold,
            ids=batch.ids,
            scores=scores.tolist(),
            verdicts=verdicts.tolist(),
            outputs=None if outputs is None else outputs.tolist(),
        )
        self.stream.transport.publish(self._score_topic, encode(message), qos=self.settings.data_broker.qos)
        self._scored += len(batch)
        if verdicts.any():
            self._report_anomalies(batch, scores, np.flatnonzero(verdicts))
        self._remember_labelled(batch)
        self._on_scores(message)

    def _remember_labelled(self, batch: Batch) -> None:
        known = batch.labels >= 0
        if not known.any():
            return
        if self._labelled is None:
            self._labelled = Window(LABELLED, batch.x.shape[1], holdout=0.0)
        self._labelled.append(batch.x[known], batch.labels[known])

    def _report_anomalies(self, batch: Batch, scores: np.ndarray, rows: np.ndarray) -> None:
        """To the federation: at most N a minute, the others are counted. Ids and scores, never features."""
        self._anomalies += len(rows)
        now = time.monotonic()
        most = float(self.settings.predictor.anomalies_per_minute)
        self._allowance = min(most, self._allowance + (now - self._allowance_at) * most / 60.0)
        self._allowance_at = now
        sent = rows[: int(self._allowance)]
        self._allowance -= len(sent)
        for row in sent:
            self._send_anomaly(batch, float(scores[row]), int(row))
        self._suppressed += len(rows) - len(sent)

    def _send_anomaly(self, batch: Batch, score: float, row: int) -> None:
        if self.manifest is None or self.manifest.threshold is None:
            return
        anomaly = Anomaly(
            id=_plain(batch.ids[row]),
            score=score,
            threshold=self.manifest.threshold,
            version=self.manifest.version,
            number=self.manifest.number,
            suppressed=self._suppressed,
            timestamp=_plain(batch.timestamps[row]),
        )
        self.link.send(self._anomaly_topic, anomaly)
        self._suppressed = 0

    # ---- status ----

    def current_status(self) -> NodeStatus:
        manifest = self.manifest
        waiting = "" if manifest else "no production model yet"
        return NodeStatus(
            state=self.state,  # type: ignore[arg-type]
            instance=self._instance,
            version=manifest.version if manifest else None,
            number=manifest.number if manifest else 0,
            backend=self.backend,
            readings=self.stream.readings() if self.stream else NodeStatus(state="lost").readings,
            detail=waiting,
            last_error=self.last_error,
            scored=self._scored,
            anomalies=self._anomalies,
            threshold=manifest.threshold if manifest else None,
        )


def _plain(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None if value is None else str(value)
