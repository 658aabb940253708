"""The transport over a real broker: one thread that connects, serves, and connects again."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.backoff import delays_s
from dl_mqtt_clients.transport.base import Address, Delivery, Payload, Will
from dl_mqtt_clients.transport.connection import Connection
from dl_mqtt_clients.transport.filters import check_filter, check_topic
from dl_mqtt_clients.transport.paho_client import message

_log = logging.getLogger(__name__)

GOOD_AFTER_S: Final = 1.0  # a connection that lasted this long starts the back-off anew


class MqttTransport:
    """`Transport` over MQTT 5. See `base.Transport` for what its methods promise."""

    def __init__(self, address: Address, *, client_id: str, will: Will | None = None, fast: bool = True) -> None:
        self._address = address
        self._client_id = client_id
        self._will = will
        self._fast = fast
        self._lock = threading.Lock()
        self._filters: dict[str, int] = {}
        self._connection: Connection | None = None
        self._stopping = threading.Event()
        self._muted = False
        self._thread: threading.Thread | None = None

    def start(
        self,
        *,
        on_message: Callable[[Delivery], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        if self._thread is not None:
            raise TransportError(f"transport {self._client_id}: expected to be started once")
        self._on_message, self._on_connected, self._on_disconnected = on_message, on_connected, on_disconnected
        self._thread = threading.Thread(target=self._run, name=f"mqtt {self._client_id}", daemon=True)
        self._thread.start()

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        check_filter(topic_filter, qos)
        with self._lock:
            held = topic_filter in self._filters
            self._filters[topic_filter] = qos
            if self.connected and self._connection is not None:
                if held:  # rumqttd sends retained messages only to a filter that is new to it
                    self._connection.unsubscribe(topic_filter)
                self._connection.subscribe({topic_filter: qos})

    def unsubscribe(self, topic_filter: str) -> None:
        with self._lock:
            held = self._filters.pop(topic_filter, None) is not None
            if held and self.connected and self._connection is not None:
                self._connection.unsubscribe(topic_filter)

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
        connection = self._connection
        if connection is None or self._stopping.is_set():
            return False
        return connection.publish(
            message(
                topic,
                payload,
                qos=qos,
                retain=retain,
                expiry_s=expiry_s,
                response_topic=response_topic,
                correlation=correlation,
                properties=properties,
            )
        )

    @property
    def connected(self) -> bool:
        connection = self._connection
        return connection is not None and connection.ready

    @property
    def backlog(self) -> int:
        connection = self._connection
        return 0 if connection is None else connection.backlog

    def stop(self, *, timeout_s: float = 2.0) -> None:
        self._stopping.set()
        connection, thread = self._connection, self._thread
        if connection is not None:
            connection.close(within_s=timeout_s)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s + 1.0)
        self._muted = True

    # ---- the network thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        delays = delays_s()
        while not self._stopping.is_set():
            began = time.monotonic()
            reason = self._connect_once()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > GOOD_AFTER_S and self._was_ready:
                delays = delays_s()
            delay_s = next(delays)
            self._tell(
                self._on_disconnected,
                f"broker {self._address.place}: {reason}; trying again in {delay_s:.1f} s",
            )
            self._stopping.wait(delay_s)

    def _connect_once(self) -> str:
        self._was_ready = False
        connection = Connection(
            self._address,
            client_id=self._client_id,
            will=self._will,
            on_message=self._received,
            on_ready=self._ready,
            fast=self._fast,
        )
        self._connection = connection
        if self._stopping.is_set():  # `stop` may have missed it
            connection.close(within_s=0.0)
        try:
            return connection.run()
        except Exception as error:  # noqa: BLE001 - whatever it was: try again
            _log.exception("Connection to %s failed in an unexpected way", self._address.place)
            return f"{type(error).__name__}: {error}"
        finally:
            self._connection = None

    def _ready(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.ready = self._was_ready = True
                self._connection.subscribe(self._filters)
        self._tell(self._on_connected)

    def _received(self, delivery: Delivery) -> None:
        if self._muted:
            return
        try:
            self._on_message(delivery)
        except Exception:  # noqa: BLE001 - a handler must not end the network thread
            _log.exception("Handler of %s failed on a message to %s", self._client_id, delivery.topic)

    def _tell(self, handler: Callable[..., None], *args: str) -> None:
        if self._muted:
            return
        try:
            handler(*args)
        except Exception:  # noqa: BLE001 - a handler must not end the network thread
            _log.exception("Handler of %s failed", self._client_id)
