"""What real brokers do that services must not trip over; each was measured before the protocol was drawn.

They are the reasons for repeated offers, chunks fetched by exact topic, and deadlines as message expiry.
"""

import socket
import statistics
import threading
import time

import pytest

from brokers import DEADLINE_S, Client, Connect, Mosquitto
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

PAUSE_S = 0.05


@pytest.fixture(params=["embedded", "mosquitto"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"shared_{request.param}_url")


@pytest.fixture
def tiny_mosquitto(tmp_path):
    """A client's queue of 5 behind the 20 in flight: what the default does at 1,000."""
    with Mosquitto(tmp_path / "tiny", conf="max_queued_messages 5") as broker:
        yield broker


def test_mosquitto_drops_messages_of_a_slow_client_and_tells_the_sender_success(tiny_mosquitto, connect) -> None:
    release = threading.Event()
    slow = connect(tiny_mosquitto.url, "slow", on_message=lambda _delivery: release.wait(DEADLINE_S))
    slow.transport.subscribe("offers")
    sender = connect(tiny_mosquitto.url, "sender")
    sender.transport.subscribe("done")
    sender.transport.publish("offers", b"first")  # the handler of the slow one is now busy
    for number in range(200):
        assert sender.transport.publish("offers", str(number).encode())
    sender.transport.publish("done", b"")
    sender.wait_messages(1)  # the broker has acknowledged all 201
    release.set()
    slow.transport.subscribe("end")
    sender.transport.publish("end", b"")
    slow.wait(lambda: "end" in slow.topics() or _again(sender, "end"), "end")
    arrived = slow.topics().count("offers")
    assert 20 <= arrived <= 30
    assert slow.payloads()[1:10] == [str(number).encode() for number in range(9)]  # the newest are lost, not the oldest


def _again(sender: Client, topic: str) -> bool:
    sender.transport.publish(topic, b"")
    return False


def test_mosquitto_drops_retained_messages_asked_for_by_wildcard_but_not_by_exact_topic(
    tiny_mosquitto, connect
) -> None:
    client = connect(tiny_mosquitto.url)
    client.transport.subscribe("stored")
    for number in range(100):
        client.transport.publish(f"chunk/{number}", b"x", retain=True)
    client.transport.publish("stored", b"")
    client.wait_messages(1)
    _check_wildcard_and_exact(client, connect(tiny_mosquitto.url, "b"), count=100)


def test_the_embedded_broker_drops_them_too(embedded: EmbeddedBroker, connect: Connect) -> None:
    client = connect(embedded.url)
    client.transport.subscribe("stored")
    for number in range(400):
        client.transport.publish(f"chunk/{number}", b"x", retain=True)
    client.transport.publish("stored", b"")
    client.wait_messages(1)
    _check_wildcard_and_exact(client, connect(embedded.url, "b"), count=400)


def _check_wildcard_and_exact(by_wildcard: Client, exactly: Client, *, count: int) -> None:
    by_wildcard.transport.subscribe("chunk/+")
    wanted = {f"chunk/{number}" for number in range(count)}
    for topic in sorted(wanted):
        exactly.transport.subscribe(topic)
        exactly.wait(lambda topic=topic: exactly.topics()[-1:] == [topic], topic)
        exactly.transport.unsubscribe(topic)
    assert set(exactly.topics()) == wanted
    by_wildcard.transport.publish("stored", b"")  # all that will come has come: this follows it
    by_wildcard.wait(lambda: by_wildcard.topics().count("stored") == 2, "answer behind the retained ones")
    assert 0 < sum(message.retained for message in by_wildcard.messages) < count


def test_brokers_count_message_expiry_down_and_then_forget_the_message(broker_url, connect, unique_name) -> None:
    client = connect(broker_url)
    client.transport.publish(f"{unique_name}/round", b"open", retain=True, expiry_s=2)
    lives = [2.0]
    deadline = time.monotonic() + DEADLINE_S
    while lives[-1] is not None:
        assert time.monotonic() < deadline, lives
        lives.append(_life_s(client, f"{unique_name}/round"))
        threading.Event().wait(PAUSE_S)  # time itself is what is waited for
    assert lives[:-1] == sorted(lives[:-1], reverse=True)
    assert set(lives) >= {2.0, 1.0, None}


def _life_s(client: Client, topic: str) -> float | None:
    """What is left of a retained message's life; None when it is gone."""
    seen = len(client.messages)
    client.transport.subscribe(topic)
    client.transport.subscribe(f"{topic}/end")
    client.transport.publish(f"{topic}/end", b"")
    client.wait(lambda: client.topics()[-1:] == [f"{topic}/end"] and len(client.messages) > seen, "end")
    found = [message.expiry_s for message in client.messages[seen:] if message.topic == topic]
    return found[0] if found else None


def test_an_offer_and_its_reply_take_no_delayed_acknowledgement_with_mosquittos_defaults(
    url, connect, unique_name, monkeypatch
) -> None:
    """88 ms without TCP_NODELAY and TCP_QUICKACK. The time is printed, not asserted: machines are busy."""
    acknowledged_at_once = []
    monkeypatch.setattr("dl_mqtt_clients.transport.paho_client.quick_ack", acknowledged_at_once.append)
    trainer = connect(url, "trainer")
    trainer.transport.subscribe(f"{unique_name}/reply")
    trainer.transport.publish(f"{unique_name}/reply", b"")
    trainer.wait_messages(1)
    monkeypatch.undo()
    sock = trainer.transport._connection._client.connected_socket
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert acknowledged_at_once.count(sock) >= 2  # after every read: Linux forgets it
    manager = connect(
        url, "manager", on_message=lambda offer: manager.transport.publish(f"{unique_name}/reply", offer.payload)
    )
    manager.transport.subscribe(f"{unique_name}/offer")
    manager.transport.publish(f"{unique_name}/offer", b"")
    trainer.wait_messages(2)
    times_s = []
    for count in range(3, 53):
        began = time.perf_counter()
        trainer.transport.publish(f"{unique_name}/offer", b"{}" * 100)
        trainer.wait_messages(count)
        times_s.append(time.perf_counter() - began)
    print(f"offer to reply, median: {1e3 * statistics.median(times_s):.2f} ms")
