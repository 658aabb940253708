"""A node's own stream of readings: gathered by the network thread, taken and decoded by the service's thread."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.readings import MAX_BYTES, Batch, ReadingParser
from dl_mqtt_clients.services.clock import steady_s
from dl_mqtt_clients.services.from_settings import address
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery, open_transport
from dl_mqtt_clients.wire.messages import Readings
from dl_mqtt_clients.wire.topics import for_node

log = logging.getLogger(__name__)

WAITING_BYTES: Final = 64 * 1024 * 1024  # of messages not yet taken, at most


class ReadingStream:
    """The data connection. `on_arrival` runs on the loop's thread once after readings came, until `take` is called.

    `on_problem`, on that thread too, when the data broker cannot be reached (`problem` says why), or is there again.
    """

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        *,
        role: str,
        on_arrival: Callable[[], None],
        on_problem: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = loop
        self._settings = settings.data_broker
        self._topic = for_node(self._settings.reading_topic, settings.node_id)
        self._on_arrival = on_arrival
        self._on_problem = on_problem
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._came = self.taken_came = (0.0, 0.0)  # when those that wait came, and those taken last; see `take`
        self._lock = threading.Lock()  # of these: both threads take from the old end
        self._capacity = settings.readings.buffer
        self._announced = False
        self._dropped = 0
        self._received = 0
        self._malformed = 0
        self._last_error = ""
        self._parser: ReadingParser | None = None
        self._rate_since = time.monotonic()
        self._rate_count = 0
        self._rate = 0.0
        self.problem = "no connection to the data broker yet"  # why it cannot be reached; empty: it can
        self.transport = open_transport(address(settings.data_broker), client_id=f"{settings.node_id}:{role}:data")

    def start(self) -> None:
        self.transport.subscribe(self._topic, qos=self._settings.qos)
        self.transport.start(on_message=self._gather, on_connected=self._connected, on_disconnected=self._disconnected)

    def stop(self) -> None:
        self.transport.stop()

    def expect(self, parser: ReadingParser) -> None:
        """The model is known now, and with it what a reading looks like."""
        self._parser = parser
        if self._messages:
            self._loop.post(self._on_arrival)

    def __len__(self) -> int:
        """Messages that wait to be taken."""
        return len(self._messages)

    def take(self, most: int) -> Batch | None:
        """The oldest messages (at most `most`), decoded; None when there are none, or no model yet.

        Whoever leaves some behind must come back for them: `on_arrival` is called for new ones only. They all came
        between the two times of `taken_came` (`steady_s`).
        """
        self._announced = False
        if self._parser is None or not self._messages:
            return None
        with self._lock:
            payloads = [self._messages.popleft() for _ in range(min(len(self._messages), most))]
            self._bytes -= sum(map(len, payloads))
            self.taken_came = self._came
        batch, reasons = self._parser.collect(payloads)
        self._received += len(batch)
        self._rate_count += len(batch)
        if reasons:
            self._malformed += len(reasons)
            self._last_error = reasons[-1][:500]
        return batch

    def readings(self) -> Readings:
        """Counts for the status."""
        now = time.monotonic()
        if now - self._rate_since >= 2.0:
            self._rate = self._rate_count / (now - self._rate_since)
            self._rate_since, self._rate_count = now, 0
        return Readings(
            received=self._received,
            malformed=self._malformed,
            dropped=self._dropped,
            rate=round(self._rate, 1),
            last_error=self._last_error or self.problem[:500],
        )

    def _gather(self, delivery: Delivery) -> None:
        """On the network thread: keep the newest, count what had to go."""
        payload = delivery.payload[: MAX_BYTES + 1]  # enough to see that it is too long
        with self._lock:
            now = steady_s()
            self._came = (self._came[0] if self._messages else now, now)
            self._messages.append(payload)
            self._bytes += len(payload)
            while len(self._messages) > self._capacity or self._bytes > WAITING_BYTES:
                self._bytes -= len(self._messages.popleft())
                self._dropped += 1
        if not self._announced:
            self._announced = True
            self._loop.post(self._on_arrival)

    def _connected(self) -> None:
        self.problem = ""
        self._loop.post(self._on_problem)

    def _disconnected(self, reason: str) -> None:
        self.problem = reason
        log.warning("%s", reason)
        self._loop.post(self._on_problem)
