"""Clients that do not keep to the protocol, beside ours, on real brokers."""

import socket

import pytest

CONNECT = b"\x10\x14\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x07hostile"


@pytest.fixture(params=["embedded", "mosquitto"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"shared_{request.param}_url")


def publish(topic: bytes, payload: bytes = b"", *, properties: bytes = b"") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + bytes([len(properties)]) + properties + payload
    return b"\x30" + bytes([len(body)]) + body


@pytest.mark.parametrize(
    "packet",
    [
        publish(b"hostile/\xff\xfe"),
        publish(b"hostile/\xed\xa0\x80"),  # a surrogate
        publish(b"hostile/nul\x00"),
        publish(b"hostile/ok", properties=b"\x26\x00\x01\xff\x00\x01\xff"),
        publish(b"hostile/ok", properties=b"\x08\x00\x02\xff\xff"),
        publish(b"hostile/+"),
        publish(b""),
        b"\x30\x05\x00\x09hos",
        b"\x36\x0f\x00\x0ahostile/ok\x00\x00\x00",
        b"\x30\xff\xff\xff\xff\xff",
        b"\xf0\x00",
    ],
)
def test_a_hostile_packet_harms_nobody_else_or_costs_a_connection_that_comes_again(
    url, connect, unique_name, packet
) -> None:
    client = connect(url)
    client.transport.subscribe("hostile/#")
    client.transport.subscribe(unique_name)
    client.transport.publish(unique_name, b"before")
    client.wait(lambda: unique_name in client.topics(), "message before")
    host, port = url.removeprefix("mqtt://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as hostile:
        hostile.sendall(CONNECT)
        assert hostile.recv(1) == b"\x20"
        hostile.sendall(packet)
        hostile.shutdown(socket.SHUT_WR)
        try:
            while hostile.recv(1000):
                pass
        except ConnectionResetError:
            pass
    sender = connect(url, "sender")
    sender.transport.publish(unique_name, b"after")
    client.wait(lambda: b"after" in client.payloads() or not client.transport.connected, "message after")
    if b"after" not in client.payloads():  # the broker passed the poison on: we left, and come again
        client.wait(lambda: client.connections == 2, "second connection")
        sender.transport.publish(unique_name, b"after")
        client.wait(lambda: b"after" in client.payloads(), "message after")
