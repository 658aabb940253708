"""A bare MQTT 5 client: bytes over a socket, no thread, no queue. It makes load, and is what we compare with."""

import select
import socket
import struct
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.transport.packets import PUBACK, PUBLISH, Packets, parse_publish
from dl_mqtt_clients.transport.sockets import no_delay, quick_ack


def publish_packet(topic: str, payload: bytes | memoryview, *, packet_id: int = 0, retain: bool = False) -> bytes:
    """A PUBLISH as bytes; QoS 1 with a packet id, else QoS 0."""
    name = topic.encode()
    head = struct.pack("!H", len(name)) + name + (struct.pack("!H", packet_id) if packet_id else b"") + b"\0"
    first = PUBLISH | (2 if packet_id else 0) | retain
    return b"".join((bytes((first,)), _length(len(head) + len(payload)), head, payload))


def _length(size: int) -> bytes:
    out = bytearray()
    while True:
        size, low = size >> 7, size & 127
        out.append(low | (128 if size else 0))
        if not size:
            return bytes(out)


class RawClient:
    """Connected when made. `acknowledged` counts PUBACKs received; what comes at QoS 1 is acknowledged at once."""

    def __init__(self, url: str, client_id: str) -> None:
        address = urlsplit(url)
        self.sock = socket.create_connection((address.hostname or "", address.port or 1883))
        no_delay(self.sock)
        self._packets = Packets()
        self._packet_id = 0
        self._confirmed = 0
        self._early: list[Delivery] = []
        self.acknowledged = 0
        name = client_id.encode()
        body = b"\0\4MQTT\5\2" + struct.pack("!HBH", 3600, 0, len(name)) + name  # clean start, keep-alive an hour
        self.sock.sendall(b"\x10" + _length(len(body)) + body)
        self._until_confirmed()

    def subscribe(self, *filters: str, qos: int = 0) -> None:
        body = struct.pack("!HB", self.next_id(), 0)
        body += b"".join(struct.pack("!H", len(f)) + f.encode() + bytes((qos,)) for f in filters)
        self.sock.sendall(b"\x82" + _length(len(body)) + body)
        self._until_confirmed()

    def publish(self, topic: str, payload: bytes | memoryview, *, qos: int = 0, retain: bool = False) -> None:
        self.sock.sendall(publish_packet(topic, payload, packet_id=self.next_id() if qos else 0, retain=retain))

    def next_id(self) -> int:
        self._packet_id = self._packet_id % 65535 + 1
        return self._packet_id

    def receive(self, timeout_s: float) -> list[Delivery]:
        """What came, as soon as a whole packet did; empty when nothing came within the time, or only answers to us."""
        if self._early:
            early, self._early = self._early, []
            return early
        until, answers = time.monotonic() + timeout_s, self.acknowledged + self._confirmed
        while select.select([self.sock], [], [], max(until - time.monotonic(), 0.0))[0]:
            came = list(self._read())
            if came or self.acknowledged + self._confirmed > answers:
                return came
        return []

    def wait_for(self, topic: str, timeout_s: float = 60.0) -> Delivery:
        """The next message on `topic`; others are dropped."""
        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            for delivery in self.receive(left_s):
                if delivery.topic == topic and delivery.payload:
                    return delivery
        raise TimeoutError(f"nothing came on {topic} within {timeout_s:.0f} s")

    def close(self) -> None:
        self.sock.sendall(b"\xe0\0")
        self.sock.close()

    def _until_confirmed(self, timeout_s: float = 20.0) -> None:
        before, until, came = self._confirmed, time.monotonic() + timeout_s, []
        while self._confirmed == before:
            came += self.receive(until - time.monotonic())
            if time.monotonic() > until:
                raise TimeoutError("the broker does not answer")
        self._early = came  # retained messages, perhaps

    def _read(self) -> Iterator[Delivery]:
        room = self._packets.room
        if room is not None:
            frames = self._packets.filled(self.sock.recv_into(room))
        else:
            data = self.sock.recv(1 << 16)
            if not data:
                raise ConnectionError("the broker closed the connection")
            frames = self._packets.feed(data)
        quick_ack(self.sock)  # as our nodes do: a broker without TCP_NODELAY waits for it
        acknowledgements = bytearray()
        for frame in frames:
            kind = frame.first & 0xF0
            if kind == PUBLISH:
                publish = parse_publish(frame)
                if publish.qos:
                    acknowledgements += struct.pack("!BBH", PUBACK, 2, publish.packet_id)
                yield publish.delivery
            elif kind == PUBACK:
                self.acknowledged += 1
            else:
                self._confirmed += 1
        if acknowledgements:
            self.sock.sendall(acknowledgements)
