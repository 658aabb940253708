"""`fedlearn status` and `fedlearn send`, on every kind of broker."""

import json

import pytest

from brokers import Connect
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import (
    Answer,
    Command,
    History,
    ManagerStatus,
    Metrics,
    NodeStatus,
    Participant,
    Readings,
    RoundReport,
    decode,
    encode,
)
from dl_mqtt_clients.wire.topics import Topics


@pytest.fixture
def topics(unique_name: str) -> Topics:
    return Topics(unique_name)


@pytest.fixture
def federation(broker_url: str, topics: Topics, connect: Connect):
    """A manager, two nodes and one round, as a broker holds them."""
    held = {
        topics.manager_status: encode(
            ManagerStatus(
                state="collecting", round=4, version=3, refused={"stale": 2}, rejected=2, detail="2 of 3 nodes"
            )
        ),
        topics.status("a", "trainer"): encode(
            NodeStatus(state="fitting", round=4, loss=0.25, version="0" * 64, drift=0.375, quarantined=1234)
        ),
        topics.status("b", "predictor"): encode(
            NodeStatus(state="scoring", scored=1000, readings=Readings(received=1000, rate=99.5), last_error="\x1b[2J")
        ),
        topics.history: encode(History(generation=1, rounds=(report(3),))),
        topics.status("c", "trainer"): b"not json",
    }
    client = connect(broker_url, "federation")
    client.transport.subscribe(f"{topics.root}/#")
    for topic, payload in held.items():
        client.transport.publish(topic, payload, retain=True)
    client.wait_messages(len(held))
    yield broker_url
    for topic in held:
        client.transport.publish(topic, b"", retain=True)


def report(number: int) -> RoundReport:
    return RoundReport(
        round=number, attempt=1, outcome="merged", version="1" * 64, number=number, seconds=1.5,
        participants=(Participant(node="a", examples=10),), metrics=Metrics(auroc=0.93, loss=0.5), left_out=("z",),
        promotion="reject: loss +40.00%",
    )  # fmt: skip


def test_json_holds_manager_nodes_and_history(run, federation, topics):
    result = run("status", "--broker", federation, "--federation", topics.federation, "--json")
    assert (result.code, result.err) == (0, "")
    said = result.json
    assert said["manager"]["state"] == "collecting"
    assert [(node["node"], node["role"], node["state"]) for node in said["nodes"]] == [
        ("a", "trainer", "fitting"),
        ("b", "predictor", "scoring"),
    ]
    assert said["history"][0]["metrics"]["auroc"] == 0.93
    assert len(said["unreadable"]) == 1


def test_the_tables_show_them_too_and_no_control_character(run, federation, topics):
    result = run("status", "--broker", federation, "--federation", topics.federation)
    assert result.code == 0
    for text in (
        "collecting",
        "fitting",
        "0.25",
        "1,000",
        "99.5",
        "0.93",
        "merged",
        "unreadable",
        "rejected",
        "2 of 3 nodes",
        "drift 0.38",
    ):
        assert text in result.out, text
    assert "\x1b" not in result.out


def test_a_federation_that_nobody_is_in_is_an_error(run, broker_url, topics):
    result = run("status", "--broker", broker_url, "--federation", topics.federation, "--timeout", "0.5")
    assert (result.code, result.out) == (1, "")
    assert topics.federation in result.err


@pytest.fixture
def manager(broker_url: str, topics: Topics, connect: Connect):
    """Something that answers commands as a manager does, after a stranger's answer."""
    heard: list[Command] = []

    def obey(delivery: Delivery) -> None:
        command = decode(delivery.payload, Command)
        heard.append(command)
        answer = encode(Answer(ok=command.command != "stop", message=command.command))
        forged = encode(Answer(ok=False, message="forged"))
        client.transport.publish(delivery.response_topic, forged, correlation=b"another")
        client.transport.publish(delivery.response_topic, answer, correlation=delivery.correlation)

    client = connect(broker_url, "manager", on_message=obey)
    client.transport.subscribe(topics.command)
    probe = connect(broker_url, "probe", on_message=lambda _delivery: None)
    probe.transport.subscribe(f"{topics.root}/probe")
    probe.transport.publish(f"{topics.root}/probe", b"")
    probe.wait_messages(1)
    return heard


@pytest.mark.parametrize("word", ["start", "pause", "round", "rescale", "release"])
def test_a_command_is_sent_and_its_answer_awaited(run, broker_url, topics, manager, word):
    result = run("send", word, "--broker", broker_url, "--federation", topics.federation, "--json")
    assert result.code == 0
    assert result.json == {"command": word, "ok": True, "message": word}
    assert [command.command for command in manager] == [word]


def test_a_refused_command_exits_1(run, broker_url, topics, manager):
    result = run("send", "stop", "--broker", broker_url, "--federation", topics.federation)
    assert (result.code, result.out) == (1, "stop: refused (stop)\n")


def test_without_an_answer_it_ends_at_the_deadline(run, broker_url, topics):
    result = run("send", "pause", "--broker", broker_url, "--federation", topics.federation, "--timeout", "0.5")
    assert (result.code, result.out) == (1, "")
    assert "expected an answer within 0.5 s" in result.err


def test_json_has_null_for_what_is_not_a_number(run, capsys):
    from dl_mqtt_clients.cli.output import print_json

    capsys.readouterr()
    print_json({"loss": float("nan")})
    assert json.loads(capsys.readouterr().out) == {"loss": None}
