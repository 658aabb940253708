"""The predictor: scores every reading of its stream with the production model.

Whatever has arrived is scored in one call; a new model is taken between two such calls, so no reading is missed.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar, Final, cast

import numpy as np

from dl_mqtt_clients.aggregation.evaluation import Sums
from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.readings import Batch
from dl_mqtt_clients.data.window import Window
from dl_mqtt_clients.errors import DataError, ModelError, TransferError, WireError
from dl_mqtt_clients.services.canary import is_canary
from dl_mqtt_clients.services.fetch import Blobs
from dl_mqtt_clients.services.from_settings import with_brokers
from dl_mqtt_clients.services.model_file import read_model_file
from dl_mqtt_clients.services.node import Node
from dl_mqtt_clients.services.own_values import PERSONAL, Newer, OwnValues, personal_positions
from dl_mqtt_clients.services.runtime import Scoring, runtime_of
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import Anomaly, Manifest, NodeStatus, Readings, Scores, Statistics, decode, encode
from dl_mqtt_clients.wire.topics import Role, Stage, for_node
from dl_mqtt_clients.wire.transfer import sha256

log = logging.getLogger(__name__)

LARGEST: Final = float(np.finfo(np.float32).max)
FILES: Final = {  # of a blob, in its folder
    "architecture": "architecture.json",
    "onnx": "graph.onnx",
    "weights": "weights.safetensors",
    "frozen": "frozen.safetensors",
}
LABELLED: Final = 4096  # newest labelled readings kept to measure a new model on


class Predictor(Node[Scoring]):
    """Publishes score, verdict and model version of each reading. `on_scores(scores)` hears them too."""

    role: ClassVar[Role] = "predictor"
    stages: ClassVar[Sequence[Stage]] = ("production", "canary")

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
        settings = settings.replace(**{"node.id": node_id}) if node_id else settings
        super().__init__(settings, runtime_of(settings))
        self._on_scores = on_scores
        self._wait_s = self.settings.predictor.max_wait_ms / 1000.0
        self._max_batch = self.settings.predictor.max_batch
        self._score_topic = for_node(self.settings.data_broker.score_topic, self.node_id)
        self._anomaly_topic = self.topics.anomaly(self.node_id)
        self._scored = self._anomalies = self._suppressed = 0
        self._counted = ""  # version of the next two
        self._version_scored = self._version_anomalies = 0
        self._sent_at: deque[float] = deque()  # anomalies of the last minute
        self._loading = False
        self._kept: dict[str, str] = {}  # hashes of the files in our folder
        self._labelled: Window | None = None
        self._measured = ""  # version whose statistics were sent
        self._own = OwnValues(self.folder.parent / "trainer")  # of the trainer on this node
        self._newer = Newer()
        self.stream = ReadingStream(
            self.loop, self.settings, role=self.role, on_arrival=self._arrived, on_problem=self.status.changed
        )

    # ---- life ----

    def _start(self) -> None:
        super()._start()
        if self.settings.predictor.file:
            self._load_file(Path(self.settings.predictor.file))
        else:
            self._load()

    def _finish(self) -> None:
        with ExitStack() as ends:
            ends.callback(super()._finish)
            for _ in range(len(self.stream or ())):  # what waits now, not what comes meanwhile
                if not self._score_some():
                    break

    def _subscriptions(self) -> Sequence[str]:
        return ()

    def _message(self, delivery: Delivery) -> None:
        pass  # nothing else is subscribed

    # ---- the model ----

    def _load_file(self, path: Path) -> None:
        """Score with this file's model from now on. ModelError ends the service: it cannot do what it is told."""
        model, manifest = read_model_file(path, self.settings)
        parser = self._parser_for(model, manifest)
        self._prepare(manifest, model, ())
        if self.stream is not None:
            self.stream.expect(parser)
        self.model, self.manifest = model, manifest
        self._adopted(())
        log.info("scoring with %s, version %d", path, manifest.number)

    def _is_for_us(self, manifest: Manifest) -> bool:
        return manifest.stage == "production" or is_canary(self.node_id, manifest.version, manifest.share)

    def _consider_manifest(self, delivery: Delivery) -> None:
        if not self.settings.predictor.file:  # which counts until we are told otherwise
            super()._consider_manifest(delivery)

    def _prepare(self, manifest: Manifest, model: Scoring, weights: Sequence[np.ndarray]) -> None:
        self._newer.taken(self._own.path(PERSONAL, manifest))
        model.set_weights(self._own.put_into(weights, manifest))
        if model is self.model:
            return
        for size in model.batch_sizes:  # compiled now: later the first batch of each size would be late
            model.warm_up([size])
            self._score_some()  # with the model before it, which goes on meanwhile

    def _adopted(self, weights: Sequence[np.ndarray]) -> None:  # noqa: ARG002 - the model has them
        self.state = "scoring"
        if self.manifest is not None and self.manifest.version != self._counted:
            self._counted = self.manifest.version
            self._version_scored = self._version_anomalies = 0
        self._measure()
        self._score()

    def _take_newer(self) -> None:
        """Personal variables that this node's trainer has learnt since."""
        model, manifest = self.model, self.manifest
        if model is None or manifest is None or not personal_positions(manifest):
            return
        path = self._own.path(PERSONAL, manifest)
        if self._newer.is_there(path):
            self._newer.taken(path)
            model.set_weights(self._own.put_into(model.get_weights(), manifest))

    def _take(self, manifest: Manifest, blobs: Blobs) -> None:
        super()._take(manifest, blobs)
        if self._loading:
            return
        try:  # so that we can start from it without broker or manager
            for name in blobs:
                self._keep(FILES[name], blobs[name])
            self._keep("production.json", encode(manifest))
        except OSError as error:
            self._note_error(error)
            log.warning("the production model cannot be kept: %s", error)

    def _keep(self, name: str, data: bytes | bytearray) -> None:
        """A disk takes its time: what has arrived meanwhile is scored before the next file."""
        if self._kept.get(name) != (digest := sha256(data)):
            write_atomically(self.folder / name, data)
            self._kept[name] = digest
            self._score_some()

    def _load(self) -> None:
        """Start from the model on disk, if there is one that fits together: a crash may have left parts of two."""
        self._loading = True
        try:
            manifest = decode((self.folder / "production.json").read_bytes(), Manifest)
            wanted = (self.runtime.describes, *self.blobs)
            names = [name for name in wanted if name in manifest.blobs or name != "frozen"]
            self._take(manifest, {name: self._stored(manifest, name, FILES[name]) for name in names})
        except FileNotFoundError:
            return
        except (OSError, WireError, ModelError, DataError) as error:
            self._refuse_model(f"the one on disk: {error}")
            return
        finally:
            self._loading = False
        log.info("started from version %d on disk", manifest.number)

    def _stored(self, manifest: Manifest, blob: str, file: str) -> bytes:
        data = (self.folder / file).read_bytes()
        if blob not in manifest.blobs or sha256(data) != manifest.blobs[blob].sha256:
            raise TransferError(f"{file}: it is not the one that production.json names")
        self._kept[file] = manifest.blobs[blob].sha256
        self.fetcher.hold(manifest.blobs[blob], data)
        return data

    def _published_again(self) -> None:
        self._measured = ""
        self._measure()

    def _measure(self) -> None:
        """Score the newest labelled readings with the new version and send the sums: the federation's AUROC."""
        if self._labelled is None or self.model is None or self.manifest is None:
            return
        if self._measured == self.manifest.version:
            return  # the manager publishes it again with what we told: telling more would go round for ever
        recent = self._labelled.snapshot()
        if not len(recent):
            return
        scores = self.model.scores(recent.x)
        statistics = Statistics(version=self.manifest.version, found=Sums.of(scores, recent.labels).to_message())
        if self.link.send(self.topics.statistics(self.node_id, self.role), statistics):
            self._measured = self.manifest.version

    # ---- readings ----

    def _arrived(self) -> None:
        if len(self.stream or ()) >= self._max_batch:
            self._score()
        elif not self.loop.pending("score"):
            self.loop.at("score", self._wait_s, self._score)

    def _score(self) -> None:
        """Score and publish what has arrived; between two batches others get their turn, a new model among them."""
        self.loop.cancel("score")
        self._take_newer()
        try:
            self._score_some()
        finally:
            if self.manifest is not None and len(self.stream or ()):
                self.loop.at("score", 0.0, self._score)
            self.status.changed()

    def _score_some(self) -> bool:
        """One batch; False when nothing waits."""
        if self.manifest is None or self.stream is None:
            return False
        batch = self.stream.take(self._max_batch)
        if batch is not None and len(batch):
            self._publish(batch)
        return batch is not None

    def _publish(self, batch: Batch) -> None:
        if self.model is None or self.manifest is None or self.stream is None:
            return
        raw, outputs = self.model.predict(batch.x)
        scores = np.nan_to_num(raw, nan=LARGEST, posinf=LARGEST)  # to the largest number: JSON has no infinity
        threshold = self._threshold
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
        self._version_scored += len(batch)
        if verdicts.any():
            self._report_anomalies(batch, scores, np.flatnonzero(verdicts))
        self._remember_labelled(batch)
        self._on_scores(message)

    def _remember_labelled(self, batch: Batch) -> None:
        known = batch.labels >= 0
        if not known.any():
            return
        if self._labelled is None or self._labelled.features != batch.x.shape[1]:
            self._labelled = Window(LABELLED, batch.x.shape[1], holdout=0.0)
        self._labelled.append(batch.x[known], batch.labels[known])

    def _report_anomalies(self, batch: Batch, scores: np.ndarray, rows: np.ndarray) -> None:
        """To the federation: at most N a minute, the others are counted. Ids and scores, never features."""
        self._anomalies += len(rows)
        self._version_anomalies += len(rows)
        minute_ago = time.monotonic() - 60.0
        while self._sent_at and self._sent_at[0] < minute_ago:
            self._sent_at.popleft()
        allowed = max(self.settings.predictor.anomalies_per_minute - len(self._sent_at), 0)
        for row in rows[:allowed].tolist():
            self._send_anomaly(batch, float(scores[row]), row)
        self._suppressed += max(len(rows) - allowed, 0)

    def _send_anomaly(self, batch: Batch, score: float, row: int) -> None:
        if self.manifest is None or self._threshold is None:
            return
        anomaly = Anomaly(
            id=_id(batch.ids[row]),
            score=score,
            threshold=self._threshold,
            version=self.manifest.version,
            number=self.manifest.number,
            suppressed=self._suppressed,
            timestamp=cast("str | float | int | None", batch.timestamps[row]),  # the parser takes nothing else
        )
        if self.link.send(self._anomaly_topic, anomaly):
            self._suppressed = 0
            self._sent_at.append(time.monotonic())
        else:
            self._suppressed += 1

    @property
    def _threshold(self) -> float | None:
        """The agreed one, with this node's offset."""
        agreed = self.manifest.threshold if self.manifest else None
        return None if agreed is None else agreed + self.settings.threshold.offset

    # ---- status ----

    def current_status(self) -> NodeStatus:
        manifest = self.manifest
        return NodeStatus(
            state=self.state,  # type: ignore[arg-type]
            instance=self._instance,
            version=manifest.version if manifest else None,
            number=manifest.number if manifest else 0,
            backend=self.backend,
            readings=Readings() if self.stream is None else self.stream.readings(),
            detail="" if manifest else "no production model yet",
            last_error=self.last_error,
            scored=self._scored,
            anomalies=self._anomalies,
            threshold=self._threshold,
            version_scored=self._version_scored,
            version_anomalies=self._version_anomalies,
        )


def _id(value: object) -> str | int | None:
    return value if isinstance(value, str | int) else None if value is None else str(value)
