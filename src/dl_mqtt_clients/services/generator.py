"""The generator: replays a data set as live streams, one topic a node."""

import logging
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.data.partition import partition
from dl_mqtt_clients.data.replay import Replay, encode_readings
from dl_mqtt_clients.data.sources import load_configured
from dl_mqtt_clients.errors import DataError
from dl_mqtt_clients.services.from_settings import address, with_brokers
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.transport.base import Delivery, open_transport
from dl_mqtt_clients.wire.topics import for_node

log = logging.getLogger(__name__)

BURST: Final = 500  # messages before the service looks into its inbox again
BACKLOG: Final = 2000  # messages on their way to the broker, at full speed


class _Stream:
    """One node's rows, the message that is due next, and when."""

    def __init__(self, node: str, topic: str, dataset: Dataset, replay: Replay) -> None:
        self.node, self.topic = node, topic
        self._dataset = dataset
        self._schedule: Iterator[tuple[float, Any]] = iter(replay)
        self.sent = 0
        self.due_s = 0.0
        self._rows: Any = None
        self.ended = not self._next()

    def take(self, *, label: str | None) -> bytes:
        """The message that is due; then the next one is."""
        rows, dataset = self._rows, self._dataset
        ids = [f"{self.node}-{self.sent + i}" for i in range(len(rows))]
        labels = dataset.y[rows] if label else None
        payload = encode_readings(dataset.x[rows], labels, ids, label=label or "label")
        self.sent += len(rows)
        self.ended = not self._next()
        return payload

    def _next(self) -> bool:
        self.due_s, self._rows = next(self._schedule, (0.0, None))
        return self._rows is not None


class Generator(Service):
    """Feeds the nodes of `settings.generator.nodes` from a data set (by default the configured one).

    `run()` returns when every stream has ended. A reading that finds no connection is lost, and counted, as with a
    real sensor.
    """

    def __init__(
        self,
        dataset: Dataset | None = None,
        *,
        settings: Settings | None = None,
        data_broker: str | None = None,
        nodes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.settings = with_brokers(settings, data_broker)
        self.sent = self.lost = 0
        generator = self.settings.generator
        self.nodes = tuple(nodes) or generator.nodes or (self.settings.node_id,)
        self._label = self.settings.readings.label if generator.labels else None
        self._streams = self._make_streams(dataset if dataset is not None else self._configured())
        self._began = 0.0
        self._qos = self.settings.data_broker.qos
        self.transport = open_transport(address(self.settings.data_broker), client_id=f"generator-{self.nodes[0]}")

    # ---- life ----

    def _start(self) -> None:
        self.transport.start(
            on_message=_ignore,
            on_connected=lambda: self.loop.post(self._connected),
            on_disconnected=lambda reason: self.loop.post(lambda: log.warning("generator: %s", reason)),
        )

    def _finish(self) -> None:
        self.transport.stop()
        log.info("generator: %d readings sent, %d lost", self.sent, self.lost)

    def _done(self) -> bool:
        return all(stream.ended for stream in self._streams)

    def _connected(self) -> None:
        if not self._began:
            self._began = time.monotonic()
        log.info("generator: feeding %d nodes", len(self._streams))
        self._send()

    # ---- streams ----

    def _configured(self) -> Dataset:
        data, part = self.settings.data, self.settings.generator.part
        splits = load_configured(data)
        chosen: Dataset = getattr(splits, part)
        unsupervised = self.settings.federation.task == "anomaly"
        return chosen.normal() if part == "train" and data.normal_only and unsupervised else chosen

    def _make_streams(self, dataset: Dataset) -> list[_Stream]:
        data = self.settings.data
        if not len(dataset):
            raise DataError(f"{dataset.name}: expected rows to replay. Received: none")
        parts = partition(dataset, self.nodes, by=data.partition, alpha=data.alpha, seed=data.seed)
        return [self._make_stream(node, dataset.select(index)) for node, index in zip(self.nodes, parts, strict=True)]

    def _make_stream(self, node: str, rows: Dataset) -> _Stream:
        settings = self.settings.generator
        replay = Replay(
            rows,
            rate=settings.rate,
            batch=settings.batch,
            start=settings.start,
            normal_s=settings.normal_s,
            anomalous_s=settings.anomalous_s,
            duration_s=settings.duration_s,
            loop=settings.loop,
        )
        return _Stream(node, for_node(self.settings.data_broker.reading_topic, node), rows, replay)

    def _send(self) -> None:
        """Everything that is due, a burst at a time."""
        for _ in range(BURST):
            stream = self._next_stream()
            if stream is None:
                return
            wait_s = self._began + stream.due_s - time.monotonic()
            if wait_s > 0 or self.transport.backlog > BACKLOG:
                self.loop.at("send", max(wait_s, 0.001), self._send)
                return
            before = stream.sent
            delivered = self.transport.publish(stream.topic, stream.take(label=self._label), qos=self._qos)
            self.sent += stream.sent - before
            self.lost += 0 if delivered else stream.sent - before
        self.loop.at("send", 0.0, self._send)

    def _next_stream(self) -> _Stream | None:
        going = [stream for stream in self._streams if not stream.ended]
        return min(going, key=lambda stream: stream.due_s) if going else None


def _ignore(_delivery: Delivery) -> None:
    """Nothing is subscribed."""
