"""A service's connection to a broker: network-thread callbacks become calls on the service's loop."""

import logging
from collections.abc import Callable

from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Address, Delivery, Transport, Will, open_transport
from dl_mqtt_clients.wire.messages import Message, encode

log = logging.getLogger(__name__)


class Link:
    """One connection. `on_message` and `on_connected` run on the loop's thread."""

    def __init__(
        self,
        loop: Loop,
        address: Address,
        *,
        client_id: str,
        will: Will | None = None,
        on_message: Callable[[Delivery], None],
        on_connected: Callable[[], None] = lambda: None,
        on_disconnected: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self.name = client_id
        self.transport: Transport = open_transport(address, client_id=client_id, will=will)

    def start(self, *topic_filters: str) -> None:
        """Connect, and hear these topics on every connection."""
        for topic_filter in topic_filters:
            self.transport.subscribe(topic_filter)
        self.transport.start(
            on_message=lambda d: self._loop.post(lambda: self._on_message(d)),
            on_connected=lambda: self._loop.post(self._connected),
            on_disconnected=lambda reason: self._loop.post(lambda: self._disconnected(reason)),
        )

    def send(self, topic: str, message: Message, *, retain: bool = False, expiry_s: float | None = None) -> bool:
        return self.transport.publish(topic, encode(message), retain=retain, expiry_s=expiry_s)

    def stop(self) -> None:
        self.transport.stop()

    def _connected(self) -> None:
        log.info("%s: connected", self.name)
        self._on_connected()

    def _disconnected(self, reason: str) -> None:
        log.warning("%s: %s", self.name, reason)
        self._on_disconnected(reason)
