"""MQTT 5 as bytes, as far as speed needs it: cutting the stream into packets, and reading PUBLISH.

Pure, and a quarter of the time of the client library's own way for small messages; everything that is not
PUBLISH or PUBACK still goes through the library.
Source: MQTT Version 5.0, OASIS Standard, 2.1 (fixed header), 2.2.2 (properties), 3.3 (PUBLISH).
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.base import Delivery

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
LARGE_BYTES: Final = 65536  # longer packets get a buffer of their own, filled by the socket directly

Bytes = bytes | bytearray


class Frame(NamedTuple):
    """One packet: its first byte, and where its body (after the length) lies in `data`."""

    first: int
    data: Bytes
    start: int
    end: int


class Packets:
    """Cuts a stream of bytes into packets, whatever pieces it comes in."""

    def __init__(self) -> None:
        self._rest = b""
        self._first = 0
        self._large: bytearray | None = None
        self._filled = 0

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes of a long packet belong; None between packets: then `feed`."""
        return None if self._large is None else memoryview(self._large)[self._filled :]

    def filled(self, count: int) -> Iterator[Frame]:
        """`count` bytes were written into `room`."""
        self._filled += count
        if self._large is not None and self._filled == len(self._large):
            data, self._large = self._large, None
            yield Frame(self._first, data, 0, len(data))

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The packets that end in `data`; what is left over waits for more. To be run through to its end."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, available = 0, len(data)
        while available - at >= 2:
            length, start = data[at + 1], at + 2
            if length >= 128:
                length, start = _long_length(data, at + 1)
                if length < 0:
                    break
            end = start + length
            if end > available:
                if length > LARGE_BYTES:
                    self._begin_large(data, at, start, length)
                    return
                break
            yield Frame(data[at], data, start, end)
            at = end
        self._rest = data[at:]

    def _begin_large(self, data: bytes, at: int, start: int, length: int) -> None:
        self._first = data[at]
        self._filled = len(data) - start
        self._large = bytearray(length)  # untouched pages cost nothing: a false length claims no memory
        self._large[: self._filled] = memoryview(data)[start:]


class Publish(NamedTuple):
    """A received PUBLISH. `packet_id` is 0 at QoS 0."""

    delivery: Delivery
    qos: int
    packet_id: int


def parse_publish(frame: Frame) -> Publish:
    """TransportError when it is not what the standard says."""
    first, data, start, end = frame
    try:
        at = start + 2
        at += data[start] << 8 | data[start + 1]
        topic = str(data[start + 2 : at], "utf-8")
        qos, packet_id = (first >> 1) & 3, 0
        if qos:
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
        if at >= end or qos > 1:
            raise TransportError("PUBLISH: expected QoS 0 or 1 and properties. Received: neither")
        if data[at] == 0:
            payload = _cut(data, at + 1, end)
            return Publish(Delivery(topic=topic, payload=payload, retained=bool(first & 1)), qos, packet_id)
        return Publish(_with_properties(topic, frame, at), qos, packet_id)
    except (IndexError, UnicodeDecodeError) as error:
        raise TransportError(f"PUBLISH: {type(error).__name__} in {end - start} bytes") from error


def _with_properties(topic: str, frame: Frame, at: int) -> Delivery:
    first, data, _, end = frame
    size, at = _variable(data, at)
    stop = at + size
    if stop > end:
        raise TransportError(f"PUBLISH: expected properties of {size} bytes. Received: {end - at}")
    expiry_s, response_topic, correlation = None, None, None
    pairs: list[tuple[str, str]] = []
    while at < stop:
        kind, at = data[at], at + 1
        if kind == 2:
            expiry_s, at = float(int.from_bytes(data[at : at + 4], "big")), at + 4
        elif kind == 8:
            response_topic, at = _text(data, at)
        elif kind == 9:
            correlation, at = _binary(data, at)
        elif kind == 38:
            name, at = _text(data, at)
            value, at = _text(data, at)
            pairs.append((name, value))
        else:
            at = _skip(kind, data, at)
    if at != stop:
        raise TransportError("PUBLISH: a property goes beyond the properties' length")
    return Delivery(
        topic=topic,
        payload=_cut(data, stop, end),
        retained=bool(first & 1),
        expiry_s=expiry_s,
        response_topic=response_topic,
        correlation=correlation,
        properties=tuple(pairs),
    )


def _skip(kind: int, data: Bytes, at: int) -> int:
    """Behind a property that means nothing to us."""
    if kind == 1:  # payload format indicator
        return at + 1
    if kind == 3:  # content type
        return _binary(data, at)[1]
    if kind == 11:  # subscription identifier
        return _variable(data, at)[1]
    if kind == 35:  # topic alias
        return at + 2
    raise TransportError(f"PUBLISH: expected a property of PUBLISH. Received: {kind}")


def _cut(data: Bytes, start: int, end: int) -> bytes:
    """data[start:end] as bytes, copied once."""
    return data[start:end] if type(data) is bytes else bytes(memoryview(data)[start:end])


def _binary(data: Bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + (data[at] << 8 | data[at + 1])
    return _cut(data, at + 2, end), end


def _text(data: Bytes, at: int) -> tuple[str, int]:
    raw, end = _binary(data, at)
    return str(raw, "utf-8"), end


def _variable(data: Bytes, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends."""
    value, end = _long_length(data, at)
    if value < 0:
        raise TransportError("PUBLISH: expected a variable byte integer. Received: the end of the packet")
    return value, end


def _long_length(data: Bytes, at: int) -> tuple[int, int]:
    """A variable byte integer, and where it ends; (-1, at) when more bytes are needed. At most four bytes."""
    value, shift = 0, 0
    for place in range(at, min(at + 4, len(data))):
        byte = data[place]
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place + 1
        shift += 7
    if len(data) - at >= 4:
        raise TransportError("packet: expected a length of at most four bytes. Received: more")
    return -1, at
