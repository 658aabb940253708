"""`fedlearn demo`: real processes, a real broker, and an end however it comes."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest

from brokers import free_port, needs_mosquitto
from descendants import descendants, survivors
from dl_mqtt_clients.transport.base import Address, open_transport

GONE_WITHIN_S = 20.0
SMALL = ("--trainers", "1", "--predictors", "1", "--json")
FOLDER = Path("artifacts/demo")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def end_of(process):
    """Exit code, result, and who was left behind."""
    code = process.end()
    return code, json.loads(process.out)


def newest_promoted(result):
    return max(r["number"] for r in result["versions"] if r["promotion"].startswith("promote"))


def test_it_learns_reports_and_leaves_nothing_behind(spawn):
    demo = spawn("demo", "--rounds", "6", "--json")
    demo.wait_for("learning")
    children = descendants(demo.child.pid)
    code, result = end_of(demo)
    assert code == 0, demo.err
    assert survivors(children, within_s=GONE_WITHIN_S) == []
    words = {word for child in children for word in child.command.split()}
    assert words >= {"manager", "train", "predict", "generate"}
    base, federated, central = result["models"]
    assert [base["name"], federated["name"], central["name"]] == ["base model", "federated", "trained centrally"]
    assert base["auroc"] < 0.65
    assert federated["auroc"] > base["auroc"] + 0.15
    assert federated["loss"] < base["loss"]
    assert [r["round"] for r in result["rounds"]] == [1, 2, 3, 4, 5, 6]
    assert all(len(r["participants"]) == 3 for r in result["rounds"])
    assert [(r["outcome"], r["number"]) for r in result["versions"]][:3] == [
        ("rescaled", 1),
        ("merged", 2),
        ("merged", 3),
    ]
    assert all(r["promotion"] and r["base"] and r["finished"] for r in result["versions"])
    assert result["rounds"][-1]["metrics"]["auroc"] == pytest.approx(federated["auroc"], abs=0.1)
    assert result["completed"] is True
    for place in ("report", "updated_model", "configuration"):
        assert Path(result[place]).is_file()
    version = json.loads((FOLDER / "updated_model" / "version.json").read_text())
    assert version["number"] == newest_promoted(result)
    assert "agreed on by 3 nodes" in Path(result["report"]).read_text(encoding="utf-8")
    assert {path.stem for path in (FOLDER / "logs").iterdir()} >= {"manager", "trainer-2", "predictor-2", "generator"}


def test_ctrl_c_keeps_what_was_learnt(spawn):
    demo = spawn("demo", "--rounds", "500", *SMALL)
    demo.wait_for("round 2 merged")
    children = descendants(demo.child.pid)
    demo.send(signal.SIGINT)
    code, result = end_of(demo)
    assert code == 130
    assert survivors(children, within_s=GONE_WITHIN_S) == []
    assert result["completed"] is False
    assert len(result["rounds"]) >= 2
    assert Path(result["report"]).is_file()
    version = json.loads((FOLDER / "updated_model" / "version.json").read_text())
    assert version["number"] == newest_promoted(result)


def test_sigterm_before_anything_was_learnt_is_clean_too(spawn):
    demo = spawn("demo", *SMALL)
    demo.wait_for("starting the nodes")
    children = descendants(demo.child.pid)
    demo.send(signal.SIGTERM)
    code, result = end_of(demo)
    assert code == 143
    assert survivors(children, within_s=GONE_WITHIN_S) == []
    assert (result["rounds"], result["report"], result["failure"]) == ([], None, None)


def test_kill_9_leaves_no_process_behind(spawn):
    demo = spawn("demo", *SMALL)
    demo.wait_for("learning")
    children = descendants(demo.child.pid)
    assert len(children) >= 6
    demo.send(signal.SIGKILL)
    assert survivors(children, within_s=GONE_WITHIN_S) == []


def test_a_child_that_dies_ends_it_with_the_childs_last_words(spawn):
    demo = spawn("demo", *SMALL)
    demo.wait_for("learning")
    children = descendants(demo.child.pid)
    (trainer,) = [child for child in children if " train " in child.command]
    os.kill(trainer.pid, signal.SIGKILL)
    code, result = end_of(demo)
    assert code == 1
    assert survivors(children, within_s=GONE_WITHIN_S) == []
    assert result["failure"].startswith("trainer-1: was ended by a signal (Killed). Its last words")
    assert "connected" in result["failure"]
    assert "trainer-1.log" in demo.err


@needs_mosquitto
def test_somebody_elses_broker_is_used_and_left_clean(spawn, mosquitto):
    demo = spawn("demo", "--rounds", "1", "--broker", mosquitto.url, *SMALL)
    code, result = end_of(demo)
    assert code == 0, demo.err
    assert len(result["rounds"]) == 1
    assert retained(mosquitto.url) == []


def test_a_broker_that_is_not_there_is_said_at_once(spawn):
    url = f"mqtt://127.0.0.1:{free_port()}"
    demo = spawn("demo", "--broker", url, *SMALL)
    assert demo.end() == 1
    assert url in demo.err
    assert "refused" in demo.err
    assert descendants(demo.child.pid) == []


def test_data_that_cannot_be_read_is_said_before_anything_starts(spawn, tmp_path):
    demo = spawn("demo", "--data", str(tmp_path / "nowhere"), *SMALL)
    assert demo.end() == 1
    assert "nowhere" in demo.err


def test_a_folder_with_other_files_is_left_alone(spawn, tmp_path):
    mine = tmp_path / "logs" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    demo = spawn("demo", "--folder", str(tmp_path), *SMALL)
    assert demo.end() == 1
    assert "expected an empty folder" in demo.err
    assert mine.read_text() == "mine"


def test_two_demonstrations_do_not_share_a_folder(spawn):
    first = spawn("demo", *SMALL)
    first.wait_for("starting the nodes")
    second = spawn("demo", *SMALL)
    assert second.end() == 1
    assert "another process works in this folder" in second.err


def retained(url: str) -> list[str]:
    """Topics that a new client gets at once."""
    connected, marker = threading.Event(), threading.Event()
    topics: list[str] = []

    def receive(delivery):
        if delivery.topic == "marker":
            marker.set()
        elif delivery.retained:
            topics.append(delivery.topic)

    client = open_transport(Address(url=url), client_id="looker-on")
    client.subscribe("#")
    client.start(on_message=receive, on_connected=connected.set, on_disconnected=lambda _reason: None)
    assert connected.wait(10.0)
    client.publish("marker", b"1")  # comes after what is retained
    assert marker.wait(10.0)
    client.stop()
    return topics
