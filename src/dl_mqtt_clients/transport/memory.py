"""A broker inside the process, found by name (`memory://name`), for tests and simulation.

The same as a real one as far as services can see: retained messages, message expiry, wills, user properties,
order, one thread for each client. QoS is ignored, since nothing is ever lost while connected.
`MemoryBroker.named("name")` gives tests the broker itself: `drop` a client, `kill` and `revive` the broker.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.backoff import delays_s
from dl_mqtt_clients.transport.base import Address, Delivery, Payload, Will
from dl_mqtt_clients.transport.filters import check_filter, check_topic, matches

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Lost:
    """The end of a connection, in the order of its messages."""

    reason: str


class MemoryBroker:
    """Who subscribed to what, and what is retained. Safe for all threads."""

    _brokers: ClassVar[dict[str, "MemoryBroker"]] = {}
    _naming: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.lock = threading.RLock()
        self._clients: dict[str, MemoryTransport] = {}
        self._exact: dict[str, dict[str, MemoryTransport]] = {}
        self._wild: dict[str, dict[str, MemoryTransport]] = {}
        self._retained: dict[str, tuple[Delivery, float]] = {}

    @classmethod
    def named(cls, name: str) -> "MemoryBroker":
        """The broker of that name, made when there is none. Names are lower case, as in a url."""
        with cls._naming:
            return cls._brokers.setdefault(name.lower(), cls(name.lower()))

    def forget(self) -> None:
        """Take the broker and what it retains out of memory."""
        with self._naming:
            self._brokers.pop(self.name, None)

    def kill(self) -> None:
        """What `kill -9` does to a broker: connections end, no will is sent, retained messages are gone."""
        with self.lock:
            self.alive = False
            for client in list(self._clients.values()):
                self._remove(client)
                client.lost("connection lost: the broker closed it")
            self._retained.clear()

    def revive(self) -> None:
        with self.lock:
            self.alive = True

    def drop(self, client_id: str) -> None:
        """What `kill -9` does to a client, as the broker sees it: its will is published. It may connect again."""
        with self.lock:
            client = self._clients.get(client_id)
            if client is not None:
                self._remove(client)
                client.lost("connection lost: dropped")
                self._publish_will(client)

    # ---- for MemoryTransport ---------------------------------------------------------------------------------

    def attach(self, client: "MemoryTransport") -> bool:
        """Let a client in; one under the same id is thrown out, as MQTT wants it. False when the broker is dead."""
        with self.lock:
            if not self.alive:
                return False
            other = self._clients.get(client.client_id)
            if other is not None:
                self._remove(other)
                other.lost("disconnected by the broker: session taken over")
                self._publish_will(other)
            self._clients[client.client_id] = client
            return True

    def detach(self, client: "MemoryTransport") -> None:
        """A clean goodbye: no will."""
        with self.lock:
            if self._clients.get(client.client_id) is client:
                self._remove(client)

    def subscribe(self, client: "MemoryTransport", topic_filter: str) -> None:
        with self.lock:
            self._table(topic_filter).setdefault(topic_filter, {})[client.client_id] = client
            for topic, (delivery, until) in list(self._retained.items()):
                left_s = _left_s(until)
                if left_s is not None and left_s <= 0:
                    del self._retained[topic]
                elif matches(topic_filter, topic):
                    client.deliver(replace(delivery, retained=True, expiry_s=left_s))

    def unsubscribe(self, client: "MemoryTransport", topic_filter: str) -> None:
        with self.lock:
            table = self._table(topic_filter)
            table.get(topic_filter, {}).pop(client.client_id, None)
            if not table.get(topic_filter, True):
                del table[topic_filter]

    def publish(self, delivery: Delivery, *, retain: bool) -> None:
        with self.lock:
            if retain and delivery.payload:
                until = math.inf if delivery.expiry_s is None else time.monotonic() + delivery.expiry_s
                self._retained[delivery.topic] = (delivery, until)
            elif retain:
                self._retained.pop(delivery.topic, None)
            takers = dict(self._exact.get(delivery.topic, {}))
            for topic_filter, clients in self._wild.items():
                if matches(topic_filter, delivery.topic):
                    takers.update(clients)
            for client in takers.values():
                client.deliver(delivery)

    def _table(self, topic_filter: str) -> dict[str, dict[str, "MemoryTransport"]]:
        return self._wild if "+" in topic_filter or "#" in topic_filter else self._exact

    def _remove(self, client: "MemoryTransport") -> None:
        del self._clients[client.client_id]
        for topic_filter in client.filters:
            self.unsubscribe(client, topic_filter)

    def _publish_will(self, client: "MemoryTransport") -> None:
        if client.will is not None:
            self.publish(Delivery(topic=client.will.topic, payload=client.will.payload), retain=True)


class MemoryTransport:
    """`Transport` to a `MemoryBroker`. See `base.Transport` for what its methods promise."""

    def __init__(self, address: Address, *, client_id: str, will: Will | None = None) -> None:
        self.client_id = client_id
        self.will = will
        self.filters: dict[str, int] = {}
        self._place = address.place
        self._broker = MemoryBroker.named(address.host)
        self._events: queue.SimpleQueue[Delivery | _Lost] = queue.SimpleQueue()
        self._connected = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(
        self,
        *,
        on_message: Callable[[Delivery], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        if self._thread is not None:
            raise TransportError(f"transport {self.client_id}: expected to be started once")
        self._on_message, self._on_connected, self._on_disconnected = on_message, on_connected, on_disconnected
        self._thread = threading.Thread(target=self._run, name=f"memory {self.client_id}", daemon=True)
        self._thread.start()

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        check_filter(topic_filter, qos)
        with self._broker.lock:
            self.filters[topic_filter] = qos
            if self._connected:
                self._broker.subscribe(self, topic_filter)

    def unsubscribe(self, topic_filter: str) -> None:
        with self._broker.lock:
            self.filters.pop(topic_filter, None)
            self._broker.unsubscribe(self, topic_filter)

    def publish(
        self,
        topic: str,
        payload: Payload,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: float | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
        properties: Sequence[tuple[str, str]] = (),
    ) -> bool:
        check_topic(topic, qos)
        delivery = Delivery(
            topic=topic,
            payload=bytes(payload),
            expiry_s=None if expiry_s is None else float(math.ceil(expiry_s)),
            response_topic=response_topic,
            correlation=correlation,
            properties=tuple(properties),
        )
        with self._broker.lock:
            if not self._connected:
                return False
            self._broker.publish(delivery, retain=retain)
            return True

    @property
    def connected(self) -> bool:
        return self._connected

    @property
    def backlog(self) -> int:
        return 0

    def stop(self, *, timeout_s: float = 2.0) -> None:
        self._stopping.set()
        self._broker.detach(self)
        self.lost("stopped")
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    # ---- for the broker; it holds its lock -------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> None:
        self._events.put(delivery)

    def lost(self, reason: str) -> None:
        self._connected = False
        self._events.put(_Lost(reason))

    # ---- the client's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        delays = delays_s()
        while not self._stopping.is_set():
            reason = "connection refused"
            if self._connect():
                delays = delays_s()
                self._tell(self._on_connected)
                reason = self._serve()
            delay_s = next(delays)
            self._tell(self._on_disconnected, f"broker {self._place}: {reason}; trying again in {delay_s:.1f} s")
            self._stopping.wait(delay_s)

    def _connect(self) -> bool:
        with self._broker.lock:
            self._connected = not self._stopping.is_set() and self._broker.attach(self)
            if self._connected:
                for topic_filter in self.filters:
                    self._broker.subscribe(self, topic_filter)
            return self._connected

    def _serve(self) -> str:
        """Hand over what comes, until the connection is lost; says why it was."""
        while True:
            event = self._events.get()
            if isinstance(event, _Lost):
                return event.reason
            self._tell(self._on_message, event)

    def _tell(self, handler: Callable[..., None], *args: object) -> None:
        if self._stopping.is_set():
            return
        try:
            handler(*args)
        except Exception:  # noqa: BLE001 - a handler must not end the network thread
            _log.exception("Handler of %s failed", self.client_id)


def _left_s(until: float) -> float | None:
    """Whole seconds, as on the wire; None when it lives for ever."""
    return None if until == math.inf else float(math.ceil(until - time.monotonic()))
