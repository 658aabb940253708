"""A whole federation of real commands on one machine: it learns, it can be looked at, and signals end it cleanly."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROUNDS = 2


class Federation:
    """Folders and options that the commands of one test share."""

    def __init__(self, spawn: Any, url: str, folder: Path) -> None:
        self.spawn, self.url = spawn, url
        self.state, self.artifacts = str(folder / "state"), str(folder / "artifacts")

    def start(self, command: str, *args: str) -> Any:
        options = ["--json", "--broker", self.url, "--set", "training.min_readings=64"]
        if command != "generate":
            options += ["--state", self.state, "--set", f"data_broker.url={self.url}"]
        return self.spawn(command, *options, *args)


@pytest.fixture
def federation(spawn: Any, tmp_path: Path) -> Iterator[Federation]:
    broker = spawn("broker", "--port", "0")
    yield Federation(spawn, broker.wait_for("mqtt://", where="out").strip(), tmp_path)
    broker.send(signal.SIGTERM)
    assert broker.end() == 0


@pytest.fixture
def base_model(run: Any, federation: Federation) -> None:
    result = run("model", "build", "--artifacts", federation.artifacts, "--set", "data.rows=2000", "--json")
    assert result.code == 0


@pytest.mark.usefixtures("base_model")
def test_services_learn_report_and_end_with_0_when_a_signal_asks_them_to(federation, run):
    start = federation.start
    manager = start(
        "manager", "--artifacts", federation.artifacts, "--set", "rounds.pause_s=1", "--set", "promotion.gate=false"
    )
    train = start("train", "--node", "a", "--log-level", "error")
    predict = start("predict", "--node", "a", "--log-format", "json")
    generate = start(
        "generate", "--nodes", "a", "--rate", "2000", "--set", "data.rows=2000", "--set", "generator.batch=50"
    )
    manager.wait_for("connected")
    train.wait_for("connected")
    assert json.loads(predict.wait_for("connected"))["level"] == "info"
    generate.wait_for("feeding 1 nodes")
    manager.wait_for(f"round {ROUNDS}.1 merged")

    shown = run("status", "--broker", federation.url, "--json").json
    assert {(node["node"], node["role"]) for node in shown["nodes"]} == {("a", "trainer"), ("a", "predictor")}
    assert shown["manager"]["version"] >= ROUNDS
    assert run("send", "pause", "--broker", federation.url).code == 0

    for service, numbers in (
        (manager, [signal.SIGTERM]),
        (train, [signal.SIGINT, signal.SIGINT]),
        (predict, [signal.SIGHUP]),
        (generate, [signal.SIGINT]),
    ):
        for number in numbers:
            service.send(number)
        assert service.end() == 0, service.err

    ended = json.loads(manager.out)
    assert ended["status"]["state"] == "stopped"
    assert ended["production"]["number"] == ended["status"]["version"]
    assert [report["outcome"] for report in ended["rounds"]].count("merged") >= ROUNDS
    assert json.loads(train.out)["status"]["accepted"] >= ROUNDS
    assert json.loads(predict.out)["status"]["scored"] > 0
    assert json.loads(generate.out)["sent"] > 0

    version = run("model", "inspect", f"{federation.artifacts}/updated_model", "--json").json
    assert version["version"]["version"] == ended["production"]["version"]
    state = run("model", "inspect", federation.state, "--json").json
    assert state["versions"][-1]["number"] == ended["status"]["version"]
    assert state["versions"][-1]["stages"] == ["global", "production"]
    assert run("model", "inspect", f"{federation.state}/a/predictor", "--json").json["kind"] == "base"
    for path in (federation.state, f"{federation.artifacts}/updated_model"):
        assert run("model", "inspect", path).code == 0

    finished = start("manager", "--artifacts", federation.artifacts, "--rounds", "1")  # as many as there were
    assert finished.end() == 0, finished.err
    assert json.loads(finished.out)["status"]["state"] == "finished"


def test_a_manager_without_a_base_model_says_how_to_make_one(run):
    result = run("manager")
    assert result.code == 2
    assert "fedlearn model build" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_second_process_under_the_same_name_ends_the_first_with_3(spawn, shared_mosquitto_url, tmp_path):
    # rumqttd publishes the newcomer's will instead of the old one's, so that neither hears of the other there
    federation = Federation(spawn, shared_mosquitto_url, tmp_path)
    first = federation.start("predict", "--node", "twin", "--federation", "twins")
    first.wait_for("connected")
    second = federation.start("predict", "--node", "twin", "--federation", "twins", "--state", str(tmp_path / "other"))
    assert first.end() == 3, first.err
    assert "another process" in first.err.splitlines()[-1]
    second.send(signal.SIGTERM)
    assert second.end() == 0


def test_a_service_waits_for_a_broker_that_is_down_and_still_stops_cleanly(spawn, tmp_path):
    train = spawn(
        "train", "--broker", "mqtt://127.0.0.1:9", "--data-broker", "mqtt://127.0.0.1:9", "--state", str(tmp_path)
    )
    train.wait_for("connection refused")
    train.send(signal.SIGINT)
    assert train.end() == 0


def test_a_broker_prints_its_address_and_frees_the_port(spawn):
    broker = spawn("broker", "--port", "0", "--json")
    broker.wait_for("}", where="out")
    said = json.loads(broker.out)
    broker.send(signal.SIGINT)
    assert broker.end() == 0
    again = spawn("broker", "--port", said["url"].rpartition(":")[2])
    assert again.wait_for("mqtt://", where="out").strip() == said["url"]


def test_a_broker_that_dies_is_an_error(spawn):
    broker = spawn("broker", "--port", "0", "--json")
    broker.wait_for("}", where="out")
    os.kill(json.loads(broker.out)["pid"], signal.SIGKILL)
    assert broker.end() == 1
    assert "ended by itself" in broker.err


def test_a_port_that_is_taken_is_an_error(spawn, run):
    broker = spawn("broker", "--port", "0")
    port = broker.wait_for("mqtt://", where="out").strip().rpartition(":")[2]
    result = run("broker", "--port", port)
    assert result.code == 1
    assert "Address already in use" in result.err
