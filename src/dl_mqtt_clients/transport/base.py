"""What a service may expect of a connection to a broker; `mqtt` and `memory` provide it.

A transport connects in the background and keeps trying for ever. It promises no delivery: brokers drop messages
of clients that are slow, and nothing is queued across connections. Services repeat until answered and publish
again in `on_connected`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from dl_mqtt_clients.errors import TransportError

PORTS: Final = {"mqtt": 1883, "mqtts": 8883}

Payload = bytes | bytearray | memoryview
Properties = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One received message. `payload` is bytes-like and belongs to the receiver."""

    topic: str
    payload: bytes
    retained: bool = False
    expiry_s: float | None = None  # what the broker left of the message's life
    response_topic: str | None = None
    correlation: bytes | None = None
    properties: Properties = ()  # MQTT 5 user properties, in order


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained and at QoS 1, when the client goes away without a word."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a broker is and how to be let in: `mqtt://host:port`, `mqtts://host:port` (TLS), `memory://name`."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None  # None with mqtts: the system's authorities
    cert_file: Path | None = None  # client certificate, with `key_file`
    key_file: Path | None = None
    keepalive_s: int = 30

    def __post_init__(self) -> None:
        """TransportError when `url` is not an address we know."""
        if self.scheme not in ("mqtt", "mqtts", "memory") or not self.host:
            raise TransportError(
                "broker: expected mqtt://host:port, mqtts://host:port or memory://name."
                f" Received: {_without_secret(self.url)!r}"
            )
        if "@" in self.url:
            raise TransportError(
                "broker: expected the user name and password in their own settings, not in the address."
                f" Received: {_without_secret(self.url)!r} with something before the @"
            )
        self.port  # noqa: B018 - raises for a port that is none

    @property
    def place(self) -> str:
        """`mqtt://host:port`, for people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.port else f"{self.scheme}://{host}"

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0].lower()

    @property
    def host(self) -> str:
        """The host, or the name of a broker in memory."""
        try:
            return urlsplit(self.url).hostname or ""
        except ValueError:
            return ""

    @property
    def port(self) -> int:
        """The port, 1883 (mqtt) or 8883 (mqtts) when the url has none; 0 in memory."""
        try:
            return urlsplit(self.url).port or PORTS.get(self.scheme, 0)
        except ValueError as error:
            raise TransportError(
                f"broker: expected a port from 1 to 65535. Received: {_without_secret(self.url)!r}"
            ) from error


class Transport(Protocol):
    """One client's connection to one broker. All methods may be called from any thread."""

    def start(
        self,
        *,
        on_message: Callable[[Delivery], None],
        on_connected: Callable[[], None],
        on_disconnected: Callable[[str], None],
    ) -> None:
        """Return at once; connect in the background, and again whenever the connection is lost.

        Handlers run on the network thread and must be quick. Every failed attempt is reported:
        `on_disconnected("broker mqtt://h:1883: connection refused; trying again in 0.6 s")`.
        """

    def subscribe(self, topic_filter: str, *, qos: int = 1) -> None:
        """Receive what matches, until `unsubscribe`, also across reconnections.

        Subscribing again to a held filter asks the broker for its retained messages again.
        """

    def unsubscribe(self, topic_filter: str) -> None: ...

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
        """Hand a message over; False when not connected: nothing is kept for the next connection.

        `payload` must not change afterwards. An empty retained payload clears the topic.
        """

    @property
    def connected(self) -> bool: ...

    @property
    def backlog(self) -> int:
        """Messages handed over and not yet written (QoS 0) or acknowledged (QoS 1) by the broker."""

    def stop(self, *, timeout_s: float = 2.0) -> None:
        """Flush what was published within `timeout_s`, then say goodbye, so that no will is sent.

        Idempotent. No handler is called after it returns.
        """


def open_transport(address: Address, *, client_id: str, will: Will | None = None) -> Transport:
    """The transport for the address's scheme; not started."""
    if address.scheme == "memory":
        from dl_mqtt_clients.transport.memory import MemoryTransport  # noqa: PLC0415 - only what is used

        return MemoryTransport(address, client_id=client_id, will=will)
    from dl_mqtt_clients.transport.mqtt import MqttTransport  # noqa: PLC0415 - paho costs 50 ms to import

    return MqttTransport(address, client_id=client_id, will=will)


def _without_secret(url: str) -> str:
    """`mqtt://user:secret@host` must not end up in a log."""
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
