"""What every transport does, on every broker: in memory, embedded, Mosquitto with its defaults and with ours."""

import re

import pytest

from brokers import Connect
from dl_mqtt_clients.transport.memory import MemoryBroker
from dl_mqtt_clients.transport.mqtt import MqttTransport


def slow_way(address, *, client_id, will=None):
    """Through paho's own packet path, as with a paho that lacks what the fast one needs."""
    return MqttTransport(address, client_id=client_id, will=will, fast=False)


@pytest.fixture(params=["memory", "embedded", "mosquitto", "our_mosquitto", "mosquitto-slow_way"])
def open_client(request: pytest.FixtureRequest, unique_name: str, connect: Connect):
    """`open_client("a")`: a connected client of this broker."""
    kind, _, way = request.param.partition("-")
    url = f"memory://{unique_name}" if kind == "memory" else request.getfixturevalue(f"shared_{kind}_url")
    further = {"transport": slow_way} if way else {}

    def make(name: str = "a", **options):
        return connect(url, name, **further, **options)

    yield make
    MemoryBroker.named(unique_name).forget()


@pytest.fixture
def topic(unique_name: str) -> str:
    return f"test/{unique_name}"


def test_a_message_arrives_as_it_was_sent(open_client, topic) -> None:
    receiver, sender = open_client("receiver"), open_client("sender")
    receiver.transport.subscribe(topic)
    receiver.transport.publish(topic, b"\x00\xff payload")  # behind its own SUBSCRIBE: now it holds
    receiver.wait_messages(1)
    assert sender.transport.publish(
        topic,
        memoryview(b"payload"),
        expiry_s=100,
        response_topic="answers/here",
        correlation=b"\x01\x02",
        properties=[("signature", "abc"), ("signature", "\u00fc")],
    )
    first, second = receiver.wait_messages(2)
    assert (first.topic, bytes(first.payload), first.retained) == (topic, b"\x00\xff payload", False)
    assert (first.expiry_s, first.response_topic, first.correlation, first.properties) == (None, None, None, ())
    assert isinstance(second.payload, bytes)
    assert second.payload == b"payload"
    assert second.expiry_s == pytest.approx(100, abs=2)
    assert (second.response_topic, second.correlation) == ("answers/here", b"\x01\x02")
    assert second.properties == (("signature", "abc"), ("signature", "\u00fc"))


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_of_one_sender_arrive_in_order(open_client, topic, qos) -> None:
    client = open_client()
    client.transport.subscribe(topic, qos=qos)
    for number in range(500):
        assert client.transport.publish(topic, str(number).encode(), qos=qos)
    client.wait_messages(500)
    assert client.payloads() == [str(number).encode() for number in range(500)]


def test_a_retained_message_waits_for_its_subscriber_until_it_is_cleared(open_client, topic) -> None:
    sender, receiver = open_client("sender"), open_client("receiver")
    sender.transport.subscribe(topic)
    sender.transport.publish(topic, b"")
    sender.wait_messages(1)
    sender.transport.publish(topic, b"kept", retain=True)
    assert not sender.wait_messages(2)[1].retained  # it came while subscribed
    receiver.transport.subscribe(topic)
    assert receiver.wait_messages(1)[0].retained
    sender.transport.publish(topic, b"", retain=True)
    assert receiver.wait_messages(2)[1].payload == b""
    late = open_client("late")
    late.transport.subscribe(topic)
    late.transport.publish(topic, b"end")
    assert late.wait_messages(1)[0].payload == b"end"


def test_subscribing_again_to_a_held_filter_brings_the_retained_message_again(open_client, topic) -> None:
    client = open_client()
    client.transport.publish(topic, b"kept", retain=True)
    for count in (1, 2, 3):
        client.transport.subscribe(topic)
        assert client.wait_messages(count)[-1].retained
    client.transport.publish(topic, b"", retain=True)


def test_wildcards_bring_retained_and_new_messages(open_client, topic) -> None:
    client = open_client()
    client.transport.publish(f"{topic}/a/status", b"kept", retain=True)
    client.transport.subscribe(f"{topic}/+/status")
    client.transport.subscribe(f"{topic}/deep/#")
    client.transport.publish(f"{topic}/b/status", b"new")
    client.transport.publish(f"{topic}/b/other", b"not wanted")
    client.transport.publish(f"{topic}/deep/1/2", b"deep")
    client.wait_messages(3)
    assert sorted(client.topics()) == [f"{topic}/a/status", f"{topic}/b/status", f"{topic}/deep/1/2"]
    client.transport.publish(f"{topic}/a/status", b"", retain=True)


def test_after_unsubscribe_nothing_comes_any_more(open_client, topic) -> None:
    client = open_client()
    client.transport.subscribe(f"{topic}/1")
    client.transport.subscribe(f"{topic}/2")
    client.transport.publish(f"{topic}/1", b"")
    client.wait_messages(1)
    client.transport.unsubscribe(f"{topic}/1")
    client.transport.unsubscribe(f"{topic}/never-held")
    client.transport.publish(f"{topic}/1", b"")
    client.transport.publish(f"{topic}/2", b"")
    client.wait_messages(2)
    assert client.topics() == [f"{topic}/1", f"{topic}/2"]


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 65535, 65536, 65537, 262144, 5_000_000])
def test_payloads_of_any_size_arrive_whole(open_client, topic, size) -> None:
    client = open_client()
    client.transport.subscribe(topic)
    payload = bytes(range(251)) * (size // 251 + 1)
    client.transport.publish(topic, memoryview(payload)[:size], properties=[("a", "b")])
    client.transport.publish(topic, b"behind it")
    client.wait_messages(2)
    assert client.payloads() == [payload[:size], b"behind it"]


def test_a_handler_that_raises_loses_only_its_message(open_client, topic, caplog) -> None:
    def on_message(delivery) -> None:
        if delivery.payload == b"bad":
            raise RuntimeError("handler failed")

    client = open_client(on_message=on_message)
    client.transport.subscribe(topic)
    for payload in (b"bad", b"good", b"bad", b"good"):
        client.transport.publish(topic, payload)
    client.wait_messages(2)
    assert client.payloads() == [b"good", b"good"]
    assert client.reasons == []
    assert "handler failed" in caplog.text


def test_a_handler_may_answer_at_once(open_client, topic) -> None:
    asker = open_client("asker")
    answerer = open_client(
        "answerer",
        on_message=lambda question: answerer.transport.publish(
            question.response_topic, question.payload[::-1], correlation=question.correlation
        ),
    )
    answerer.transport.subscribe(f"{topic}/question")
    answerer.transport.publish(f"{topic}/question", b"", response_topic=f"{topic}/nobody")
    answerer.wait_messages(1)
    asker.transport.subscribe(f"{topic}/answer")
    asker.transport.publish(f"{topic}/question", b"abc", response_topic=f"{topic}/answer", correlation=b"7")
    answer = asker.wait_messages(1)[0]
    assert (answer.payload, answer.correlation) == (b"cba", b"7")


def test_a_burst_of_thousands_at_qos_1_is_acknowledged_and_the_backlog_ends_at_zero(open_client, topic) -> None:
    client = open_client()
    for number in range(3000):
        assert client.transport.publish(f"{topic}/{number}", b"x" * 50)
    client.transport.subscribe(f"{topic}/end")
    client.transport.publish(f"{topic}/end", b"")
    client.wait_messages(1)
    client.transport.publish(f"{topic}/end", b"")
    client.wait(
        lambda: client.transport.backlog == 0 or client.transport.publish(f"{topic}/end", b"", qos=0), "empty backlog"
    )


def test_stop_flushes_what_was_published(open_client, topic) -> None:
    receiver, sender = open_client("receiver"), open_client("sender")
    receiver.transport.subscribe(f"{topic}/#")
    receiver.transport.publish(f"{topic}/ready", b"")
    receiver.wait_messages(1)
    for number in range(50):
        sender.transport.publish(f"{topic}/{number}", b"x" * 20_000)
    sender.transport.stop()
    receiver.wait_messages(51)
    assert not sender.transport.connected
    assert sender.transport.publish(topic, b"") is False
    sender.transport.stop()


def test_nothing_is_called_after_stop(open_client, topic) -> None:
    client, sender = open_client("receiver"), open_client("sender")
    client.transport.subscribe(topic)
    client.transport.publish(topic, b"")
    client.wait_messages(1)
    client.transport.stop()
    seen = len(client.messages)
    sender.transport.subscribe(topic)
    for _ in range(10):
        sender.transport.publish(topic, b"")
    sender.wait_messages(10)
    assert len(client.messages) == seen
    assert client.reasons == []


def test_a_second_client_of_the_same_id_throws_the_first_out_which_says_why(open_client) -> None:
    first = open_client("same")
    second = open_client("same")
    first.wait(lambda: first.reasons, "reason")
    assert re.search(r"broker \w+://.+: .+; trying again in \d\.\d s", first.reasons[0])
    second.transport.stop()
    first.wait(lambda: first.connections >= 2, "second connection")


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+", "a/b#", "\ud800"])
def test_wrong_filters_are_refused_by_name(open_client, topic_filter) -> None:
    from dl_mqtt_clients.errors import TransportError

    client = open_client()
    with pytest.raises(TransportError, match="topic filter"):
        client.transport.subscribe(topic_filter)


@pytest.mark.parametrize("wrong", ["", "a/+", "#", "x" * 65536, "\0"])
def test_wrong_topics_are_refused_by_name(open_client, wrong) -> None:
    from dl_mqtt_clients.errors import TransportError

    client = open_client()
    with pytest.raises(TransportError, match="topic"):
        client.transport.publish(wrong, b"")
