"""`fedlearn versions | promote | rollback | diff`, on every kind of broker."""

import msgspec
import pytest

from brokers import Connect
from dl_mqtt_clients.cli.asking import Trail
from dl_mqtt_clients.errors import ConfigurationError
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import (
    Answer,
    Blob,
    Command,
    Difference,
    History,
    Manifest,
    Metrics,
    Participant,
    RoundReport,
    Spread,
    Variable,
    decode,
    encode,
)
from dl_mqtt_clients.wire.topics import Topics

BLOB = Blob(sha256="f" * 64, bytes=1, chunk_bytes=1)
METRICS = Metrics(
    loss=0.5, holdout_loss=0.25, auroc=0.93, average_precision=0.81,
    loss_spread=Spread(worst=0.75, median=0.25, best=0.125, worst_node="jetson-07"),
)  # fmt: skip


def sha(number: int) -> str:
    return f"{number:02d}" * 32


def report(number: int, **changes) -> RoundReport:
    known = {
        "round": number, "attempt": 1, "outcome": "merged", "version": sha(number), "number": number,
        "base": sha(number - 1), "participants": (Participant(node="a", examples=10),),
        "promotion": "promote: loss -3.10%, at most +2.00% allowed, over 3 nodes",
        "metrics": METRICS,
    }  # fmt: skip
    return RoundReport(**{**known, **changes})


REPORTS = (
    report(11, outcome="rescaled", promotion=""),
    report(
        12,
        round=11,
        threshold=0.625,
        metrics=msgspec.structs.replace(METRICS, examples=512),
        data_from="2026-07-02T12:05:00+00:00",
        data_to="2026-07-02T13:04:59+00:00",
    ),
    report(
        13,
        promotion="reject: loss +40.00%, at most +7.00% allowed, over 3 nodes",
        data_to="2026-07-02T13:09:59+00:00",
    ),
    RoundReport(round=14, attempt=1, outcome="abandoned"),
)


def manifest(stage: str, number: int) -> Manifest:
    return Manifest(
        stage=stage, generation=1, serial=number, version=sha(number), number=number, round=number, lineage="e" * 64,
        blobs={"weights": BLOB}, variables=(Variable(role="trainable", shape=(2,), dtype="float32", path="w"),),
    )  # fmt: skip


@pytest.fixture
def topics(unique_name: str) -> Topics:
    return Topics(unique_name)


@pytest.fixture
def manager(broker_url: str, topics: Topics, connect: Connect):
    """What a manager retains, and answers that repeat the question; the commands it heard."""
    heard: list[Command] = []

    def obey(delivery: Delivery) -> None:
        if delivery.topic != topics.command:
            return
        order = decode(delivery.payload, Command)
        heard.append(order)
        changes = (
            Difference(path="dense/kernel", role="trainable", change=0.5, norm=2.0),
            Difference(path="dense/bias", role="trainable", change=0.5, norm=0.0),
        )
        answer = Answer(
            ok=order.version != sha(99), message="as said", differences=changes if order.command == "diff" else ()
        )
        client.transport.publish(delivery.response_topic, encode(answer), correlation=delivery.correlation)

    held = {
        topics.history: encode(History(generation=1, rounds=REPORTS, omitted=10)),
        topics.model("global"): encode(manifest("global", 13)),
        topics.model("production"): encode(manifest("production", 12)),
    }
    client = connect(broker_url, "manager", on_message=obey)
    client.transport.subscribe(f"{topics.root}/#")
    for topic, payload in held.items():
        client.transport.publish(topic, payload, retain=True)
    client.wait_messages(len(held))
    yield heard
    for topic in held:
        client.transport.publish(topic, b"", retain=True)


@pytest.fixture
def ask(run, broker_url, topics):
    return lambda *words: run(*words, "--broker", broker_url, "--federation", topics.federation)


def test_the_table_says_what_each_version_is_worth_and_what_became_of_it(ask, manager):
    result = ask("versions")
    assert (result.code, result.err) == (0, "")
    words = " ".join(result.out.split())
    for text in (
        "newest version 13", "production version 12", "10 more", "0.25", "0.93", "0.81", "0.75/0.25/0.125",
        "jetson-07", "0.625", "IN PRODUCTION", "rejected:", "+40.00%", "1 node, new scaler", "not judged yet",
    ):  # fmt: skip
        assert text in words, text
    assert "abandoned" not in words


def test_it_says_when_the_readings_came_as_far_as_that_is_known(ask, manager):
    lines = [line.split() for line in ask("versions").out.partition("What they learnt from")[2].splitlines()]
    assert ["12", "512", "2026-07-02", "12:05:00", "2026-07-02", "13:04:59"] in lines
    assert ["13", "0", "2026-07-02", "13:09:59"] in lines
    assert not [line for line in lines if line[:1] == ["11"]]


def test_json_holds_the_reports_as_the_manager_made_them(ask, manager):
    said = ask("versions", "--json").json
    assert (said["newest"]["number"], said["production"]["number"], said["omitted"]) == (13, 12, 10)
    assert msgspec.convert(said["versions"], list[RoundReport]) == list(REPORTS[:3])


@pytest.mark.parametrize(("given", "meant"), [((), None), (("12",), sha(12))])
def test_promote_is_told_to_the_manager(ask, manager, given, meant):
    assert ask("promote", *given).out == "promote: done (as said)\n"
    assert manager == [Command(command="promote", version=meant)]


@pytest.mark.parametrize(("given", "holds"), [((), True), (("--hold",), True), (("--no-hold",), False)])
def test_a_rollback_holds_unless_told_not_to(ask, manager, given, holds):
    assert ask("rollback", "12", *given).code == 0
    assert manager == [Command(command="rollback", version=sha(12), hold=holds)]


@pytest.mark.parametrize(
    ("given", "meant"),
    [((), None), (("12",), sha(12)), (("10",), sha(10)), ((sha(12),), sha(12)), ((sha(12)[:6],), sha(12))],
)
def test_a_rollback_names_the_version_by_its_hash(ask, manager, given, meant):
    assert ask("rollback", *given).code == 0
    assert manager == [Command(command="rollback", version=meant)]


def test_a_refused_rollback_exits_1(ask, manager):
    result = ask("rollback", sha(99))
    assert (result.code, result.out) == (1, "rollback: refused (as said)\n")


def test_a_number_that_there_is_not_is_a_mistake_that_lists_those_there_are(ask, manager):
    result = ask("rollback", "77")
    assert (result.code, result.out) == (2, "")
    assert "expected a number (10–13)" in result.err
    assert "Received: 77" in result.err
    assert manager == []


def test_a_difference_is_told_variable_by_variable(ask, manager):
    said = ask("diff", "13", "11", "--json").json
    assert manager == [Command(command="diff", version=sha(13), other=sha(11))]
    assert said["variables"] == [
        {"variable": "dense/kernel", "role": "trainable", "change": 0.5, "relative": 0.25},
        {"variable": "dense/bias", "role": "trainable", "change": 0.5, "relative": None},
    ]
    assert "dense/kernel" in ask("diff", "13").out
    assert manager[-1] == Command(command="diff", version=sha(13))


def test_a_federation_without_versions_is_an_error(ask):
    result = ask("versions", "--timeout", "0.5")
    assert (result.code, result.out) == (1, "")
    assert "Received: none" in result.err


@pytest.mark.parametrize("text", ["", "-1", "1e3", "12a", "g" * 64, "0" * 5, sha(12) + "0"])
def test_what_names_no_version_is_refused(text):
    trail = Trail(reports=REPORTS[:3])
    with pytest.raises(ConfigurationError, match="expected a number"):
        trail.resolve(text)


def test_a_beginning_that_two_versions_share_names_none():
    twins = (report(1, version="ab" * 32), report(2, version="ab" * 31 + "cd", base="ab" * 32))
    with pytest.raises(ConfigurationError):
        Trail(reports=twins).resolve("abababab")
    assert Trail(reports=twins).resolve("2") == "ab" * 31 + "cd"
