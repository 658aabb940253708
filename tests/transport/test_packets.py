"""MQTT as bytes: golden bytes of the standard, laws against paho's own decoder, and hostile bytes."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt._packet import decode_publish
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.packets import LARGE_BYTES, Frame, Packets, parse_publish

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text("abcdef/é", min_size=1, max_size=20)


def length(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + length(len(body)) + body


def bodies(frames) -> list[tuple[int, bytes]]:
    return [(frame.first, bytes(frame.data[frame.start : frame.end])) for frame in frames]


def in_pieces(stream: bytes, sizes: list[int]) -> list[tuple[int, bytes]]:
    """As a socket would hand it over: pieces of these sizes, over and over."""
    packets, found, at, turn = Packets(), [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        turn += 1
        room = packets.room
        if room is None:
            found += bodies(packets.feed(stream[at : at + size]))
        else:
            size = min(size, len(room))
            piece = stream[at : at + size]
            room[: len(piece)] = piece
            found += bodies(packets.filled(len(piece)))
        at += size
    return found


@given(
    st.lists(
        st.tuples(st.integers(0, 255), st.one_of(st.binary(max_size=300), st.integers(0, 3 * LARGE_BYTES).map(bytes))),
        max_size=6,
    ),
    st.lists(st.integers(1, 70_000), min_size=1, max_size=5),
)
def test_however_the_stream_is_cut_the_same_packets_come_out(expected, sizes) -> None:
    stream = b"".join(packet(first, body) for first, body in expected)
    assert in_pieces(stream, [*sizes, 1000]) == expected


def test_one_byte_at_a_time_gives_the_same_packets() -> None:
    expected = [(0xD0, b""), (0x30, b"x" * 130), (0x40, b"\x00\x01")]
    assert in_pieces(b"".join(packet(*one) for one in expected), [1]) == expected


def test_a_publish_of_the_standards_bytes_is_read() -> None:
    body = b"\x00\x03a/b" + b"\x00\x0a" + b"\x0c" + b"\x02\x00\x00\x00\x3c" + b"\x26\x00\x01k\x00\x01v" + b"payload"
    publish = parse_publish(Frame(0x33, body, 0, len(body)))
    assert (publish.qos, publish.packet_id) == (1, 10)
    assert publish.delivery.topic == "a/b"
    assert publish.delivery.payload == b"payload"
    assert publish.delivery.retained
    assert publish.delivery.expiry_s == 60.0
    assert publish.delivery.properties == (("k", "v"),)


@st.composite
def properties(draw):
    made = Properties(PacketTypes.PUBLISH)
    if draw(st.booleans()):
        made.MessageExpiryInterval = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        made.ResponseTopic = draw(names)
    if draw(st.booleans()):
        made.CorrelationData = draw(st.binary(max_size=20))
    if draw(st.booleans()):
        made.PayloadFormatIndicator = draw(st.integers(0, 1))
    if draw(st.booleans()):
        made.ContentType = draw(st.text("abc/", max_size=9))
    if draw(st.booleans()):
        made.SubscriptionIdentifier = draw(st.integers(1, 268435455))
    pairs = draw(st.lists(st.tuples(st.text("abc", max_size=9), st.text("xyzü", max_size=200)), max_size=4))
    if pairs:
        made.UserProperty = pairs
    return made


@given(
    st.one_of(names, st.integers(250, 400).map(lambda n: "t" * n)),
    st.binary(max_size=400),
    st.booleans(),
    st.integers(0, 1),
    st.integers(1, 65535),
    properties(),
)
def test_a_publish_is_read_as_paho_reads_it(topic, payload, retain, qos, packet_id, made) -> None:
    raw = topic.encode()
    identity = packet_id.to_bytes(2, "big") if qos else b""
    body = len(raw).to_bytes(2, "big") + raw + identity + made.pack() + payload
    first = 0x30 | qos << 1 | retain
    theirs = decode_publish(first, body, MQTTProtocolVersion.MQTTv5)
    ours = parse_publish(Frame(first, b"before" + body + b"behind", 6, 6 + len(body)))
    in_bytearray = parse_publish(Frame(first, bytearray(body), 0, len(body)))
    assert ours == in_bytearray
    assert type(in_bytearray.delivery.payload) is bytes
    found = ours.delivery
    assert (found.topic.encode(), found.payload, found.retained) == (theirs.topic, theirs.payload, theirs.retain)
    assert (ours.qos, ours.packet_id) == (theirs.qos, theirs.mid)
    assert found.expiry_s == getattr(theirs.properties, "MessageExpiryInterval", None)
    assert found.response_topic == getattr(theirs.properties, "ResponseTopic", None)
    assert found.correlation == getattr(theirs.properties, "CorrelationData", None)
    assert found.properties == tuple(getattr(theirs.properties, "UserProperty", ()))


@given(st.integers(0x30, 0x3F), st.binary(max_size=60))
def test_hostile_bodies_are_read_or_refused_and_nothing_else(first, body) -> None:
    try:
        publish = parse_publish(Frame(first, body + b"next packet", 0, len(body)))
    except TransportError:
        return
    assert len(publish.delivery.topic.encode()) + len(publish.delivery.payload) < len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x00",
        b"\x00\x05ab",
        b"\x00\x01a",
        b"\x00\x02\xff\xfe\x00",
        b"\x00\x01a\x05\x02",
        b"\x00\x01a\x02\x63\x00",
    ],
)
def test_a_broken_publish_is_refused(body) -> None:
    with pytest.raises(TransportError, match="PUBLISH"):
        parse_publish(Frame(0x30, body, 0, len(body)))
    with pytest.raises(TransportError, match="PUBLISH"):
        parse_publish(Frame(0x30, body + bytes(20), 0, len(body)))  # another packet behind it


@given(st.binary(max_size=300), st.lists(st.integers(1, 50), min_size=1, max_size=4))
def test_hostile_streams_are_cut_or_refused_and_nothing_else(stream, sizes) -> None:
    with contextlib.suppress(TransportError):
        assert sum(len(body) + 2 for _, body in in_pieces(stream, sizes)) <= len(stream)


def test_a_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(TransportError, match="four bytes"):
        list(Packets().feed(b"\x30\xff\xff\xff\xff\x01"))
