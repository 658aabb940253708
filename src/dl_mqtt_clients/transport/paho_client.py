"""The one module that knows paho-mqtt: its client, with a faster way in and without needless copies.

paho reads a packet with three system calls and decodes it through several objects: 29 µs for a small message.
`PahoClient.loop_read` reads 64 KiB at once, decodes PUBLISH and PUBACK itself (5 µs, the handler included), and
hands every other packet to paho. That needs a few of paho's private names; should a future version lack one of
them, everything goes paho's own way, only slower (the contract tests run both).
"""

import logging
import math
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.exception import MQTTException
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.base import Address, Delivery, Payload, Will
from dl_mqtt_clients.transport.packets import LARGE_BYTES, PUBACK, PUBLISH, Frame, Packets, parse_publish
from dl_mqtt_clients.transport.sockets import no_delay, quick_ack
from dl_mqtt_clients.transport.tls import client_context, readable

_log = logging.getLogger(__name__)

CONNECT_WITHIN_S: Final = 10.0
MAX_PAYLOAD_BYTES: Final = 268_000_000  # a packet holds 268,435,455 with its topic and properties
READS_AT_ONCE: Final = 16  # of 64 KiB, before acknowledgements and other writes get their turn
SERVERS_RECEIVE_MAXIMUM: Final = 65535  # what a broker takes when it does not say
_INTERNALS: Final = (
    *("_in_packet", "_packet_handle", "_loop_rc_handle", "_sock", "_last_bytes_received"),
    *("_out_messages", "_out_message_mutex", "_out_packet", "_do_on_publish", "_packet_queue"),
)
_SUCCESS: Final = ReasonCode(PacketTypes.PUBACK)
_NO_PROPERTIES: Final = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class Message(NamedTuple):
    """A PUBLISH to be; made by `message`, which checks it."""

    topic: str
    payload: Payload
    qos: int
    retain: bool
    properties: Properties | None


def message(
    topic: str,
    payload: Payload,
    *,
    qos: int,
    retain: bool,
    expiry_s: float | None,
    response_topic: str | None,
    correlation: bytes | None,
    properties: Sequence[tuple[str, str]],
) -> Message:
    """TransportError when MQTT cannot carry it."""
    size = memoryview(payload).nbytes
    if size > MAX_PAYLOAD_BYTES:
        raise TransportError(f"payload for {topic}: expected at most {MAX_PAYLOAD_BYTES} bytes. Received: {size}")
    if expiry_s is None and response_topic is None and correlation is None and not properties:
        return Message(topic, payload, qos, retain, None)  # the usual case: paho's properties are slow
    made = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if expiry_s is not None:
        made.MessageExpiryInterval = min(max(math.ceil(expiry_s), 0), 2**32 - 1)
    if response_topic is not None:
        made.ResponseTopic = response_topic
    if correlation is not None:
        made.CorrelationData = correlation
    if properties:
        made.UserProperty = list(properties)
    try:
        made.pack()  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, AttributeError, struct.error, MQTTException) as error:
        raise TransportError(f"properties for {topic}: cannot be sent: {error}") from error
    return Message(topic, payload, qos, retain, made)


class Handlers(Protocol):
    """Who is told. All are called on the thread that calls `loop_read` and `loop_write`, except `wake`."""

    def received(self, delivery: Delivery) -> None: ...
    def accepted(self, receive_maximum: int) -> None: ...
    def acknowledged(self, packet_id: int) -> None: ...
    def ended(self, reason: str) -> None: ...
    def wake(self) -> None: ...


class PahoClient(Client):
    """One connection's client; drive it with `loop_read`, `loop_write` and `loop_misc`."""

    def __init__(
        self, address: Address, handlers: Handlers, *, client_id: str, will: Will | None, fast: bool = True
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
        )
        self._address = address
        self._handlers = handlers
        self._packets = Packets()
        self._tls: ssl.SSLContext | None = None
        self.fast = fast and all(hasattr(self, name) for name in _INTERNALS)
        self.max_inflight_messages = 0  # the connection paces: paho knows nothing of the broker's Receive Maximum
        self.connect_timeout = CONNECT_WITHIN_S
        if address.username is not None:
            self.username_pw_set(address.username, address.password)
        if will is not None:
            self.will_set(will.topic, will.payload, qos=1, retain=True)
        self._set_callbacks()

    def _set_callbacks(self) -> None:
        self.on_connect = self._connack
        self.on_disconnect = self._disconnected
        self.on_subscribe = self._suback
        self.on_socket_open = lambda *_: no_delay(self.connected_socket)
        self.on_socket_register_write = lambda *_: self._handlers.wake()
        if not self.fast:
            self.on_message = lambda _client, _data, message: self._message(message)
            self.on_publish = lambda _client, _data, packet_id, *_: self._handlers.acknowledged(packet_id)

    @property
    def unsent(self) -> int:
        """Packets not yet written to the socket."""
        return len(self._out_packet) if self.fast else int(self.want_write())

    @property
    def connected_socket(self) -> socket.socket | None:
        """The socket, None when the connection has ended."""
        sock = self.socket()
        return sock if isinstance(sock, socket.socket) else None

    @property
    def pending(self) -> bool:
        """Whether TLS holds decrypted bytes, which no `select` shows."""
        sock = self.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    # ---- the way in ------------------------------------------------------------------------------------------

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """Read what the socket has (bounded) and handle it."""
        if not self.fast:
            code = super().loop_read(max_packets)
            quick_ack(self.connected_socket)
            return code
        for _ in range(READS_AT_ONCE):
            if self._sock is None:
                return MQTTErrorCode.MQTT_ERR_NO_CONN
            try:
                if not self._read_once(self._sock):
                    break
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except (OSError, TransportError) as error:
                why = readable(error) if isinstance(error, OSError) else str(error)
                self._handlers.ended(f"connection lost: {why}")
                return self._loop_rc_handle(MQTTErrorCode.MQTT_ERR_CONN_LOST)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _read_once(self, sock: Any) -> bool:
        """One read, and all packets it completes. False when the socket has no more for now."""
        room = self._packets.room
        if room is not None:
            count = sock.recv_into(room)
            frames, wanted = self._packets.filled(count), len(room)
        else:
            data = sock.recv(LARGE_BYTES)
            count = len(data)
            frames, wanted = self._packets.feed(data), LARGE_BYTES
        if count == 0:
            raise TransportError("the broker closed it")
        quick_ack(sock)
        self._last_bytes_received = time.monotonic()
        self._handle(frames)
        return count == wanted or self.pending

    def _handle(self, frames: Iterable[Frame]) -> None:
        acknowledgements = bytearray()
        for frame in frames:
            kind = frame.first & 0xF0
            if kind == PUBLISH:
                publish = parse_publish(frame)
                self._handlers.received(publish.delivery)
                if publish.qos:
                    acknowledgements += struct.pack("!BBH", PUBACK, 2, publish.packet_id)
            elif kind == PUBACK:
                self._puback(frame)
            else:
                self._others(frame)
        if acknowledgements:
            self._packet_queue(PUBACK, acknowledgements, 0, 1)

    def _puback(self, frame: Frame) -> None:
        _, data, start, end = frame
        if end - start < 2:
            raise TransportError("PUBACK: expected a packet id. Received: the end of the packet")
        packet_id = data[start] << 8 | data[start + 1]
        if end - start > 2 and data[start + 2] >= 0x80:
            reason = ReasonCode(PacketTypes.PUBACK, identifier=data[start + 2])
            _log.warning("The broker refuses a message: %s", reason)
        with self._out_message_mutex:
            if packet_id in self._out_messages:
                self._do_on_publish(packet_id, _SUCCESS, _NO_PROPERTIES)
        self._handlers.acknowledged(packet_id)

    def _others(self, frame: Frame) -> None:
        """Everything else is paho's: give it the packet as if it had read it."""
        first, data, start, end = frame
        read, nothing_read = self._in_packet, self._in_packet.copy()
        read["command"], read["packet"] = first, bytearray(data[start:end])
        read["remaining_length"], read["have_remaining"] = end - start, 1
        try:
            code = self._packet_handle()
        except Exception as error:
            raise TransportError(f"malformed packet of type {first >> 4}: {error}") from error
        finally:
            self._in_packet = nothing_read
        if code > 0:
            raise TransportError(f"{code.name} after a packet of type {first >> 4}")

    def _packet_queue(self, command: int, packet: Any, *args: Any) -> MQTTErrorCode:
        """Long packets as views: paho copies all that is left of one after every partial write."""
        if len(packet) > LARGE_BYTES:
            packet = memoryview(packet)
        return super()._packet_queue(command, packet, *args)

    # ---- paho's callbacks ------------------------------------------------------------------------------------

    def _connack(
        self, _client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._handlers.ended(f"refused: {reason}".lower())
        else:
            self._handlers.accepted(getattr(properties, "ReceiveMaximum", SERVERS_RECEIVE_MAXIMUM))

    def _disconnected(
        self, _client: Client, _data: Any, flags: DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        by_broker = flags.is_disconnect_packet_from_server
        who = "disconnected by the broker" if by_broker else "connection lost"
        why = "" if str(reason) == "Unspecified error" else f": {reason}"
        self._handlers.ended(f"{who}{why}".lower())

    def _suback(
        self, _client: Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        for reason in reasons:
            if reason.is_failure:
                _log.warning("The broker refuses a subscription: %s", reason)

    def _message(self, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            raise TransportError("PUBLISH: expected a topic in UTF-8") from None
        found = message.properties
        expiry_s = getattr(found, "MessageExpiryInterval", None)
        self._handlers.received(
            Delivery(
                topic=topic,
                payload=bytes(message.payload),
                retained=message.retain,
                expiry_s=None if expiry_s is None else float(expiry_s),
                response_topic=getattr(found, "ResponseTopic", None),
                correlation=getattr(found, "CorrelationData", None),
                properties=tuple(getattr(found, "UserProperty", ())),
            )
        )

    # ---- the way out -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """TCP, TLS and CONNECT; the answer comes with `loop_read`. OSError or TransportError when it fails."""
        address = self._address
        self._tls = client_context(address)
        if self._tls is not None:
            self.tls_set_context(self._tls)
        try:
            self.connect(address.host, address.port, address.keepalive_s, clean_start=True)
        except OSError:  # before the next: a certificate error is both
            raise
        except ValueError as error:  # a host name or credentials that cannot be encoded
            raise TransportError(str(error)) from error

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        """As paho does it, but a failed handshake leaves no open socket."""
        if self._tls is None:
            raise TransportError("mqtts: expected a TLS context")
        tcp_sock.settimeout(CONNECT_WITHIN_S)
        wrapped = self._tls.wrap_socket(tcp_sock, server_hostname=self.host, do_handshake_on_connect=False)
        try:
            wrapped.do_handshake()
        except OSError:
            wrapped.close()
            raise
        return wrapped

    def send(self, message: Message) -> int | None:
        """Queue a PUBLISH: its packet id, None when the connection is gone."""
        payload = message.payload
        if isinstance(payload, memoryview):
            payload = payload.tobytes()
        info = self.publish(message.topic, payload, message.qos, message.retain, message.properties)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def send_subscribe(self, filters: Mapping[str, int]) -> None:
        """Filters and their QoS, in one packet."""
        self.subscribe([(name, SubscribeOptions(qos=qos)) for name, qos in filters.items()])
