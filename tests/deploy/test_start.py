"""The scripts of the image: what a container takes from its node, and when it is healthy."""

import subprocess
from pathlib import Path

import pytest

from dl_mqtt_clients.services.health import FILE, uptime_s

DOCKER = Path(__file__).parents[2] / "deploy" / "docker"


@pytest.fixture
def start(tmp_path):
    """`start(command, **environment)` -> the environment that `fedlearn` got."""
    program = tmp_path / "bin" / "fedlearn"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nenv\n")
    program.chmod(0o755)
    (tmp_path / "own").mkdir()

    def call(command: str, **environment: str) -> dict[str, str]:
        given = {"PATH": f"{program.parent}:/usr/bin:/bin", "NODE_FOLDER": str(tmp_path / "own"), **environment}
        done = subprocess.run(
            [DOCKER / "start", command], env=given, check=True, timeout=20, capture_output=True, text=True
        )
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    return call


@pytest.mark.parametrize(
    ("host", "node"),
    [("jetson-07", "jetson-07"), ("jetson.site.example", "jetson-site-example"), ("ä b", "---b"), ("x" * 90, "x" * 64)],
)
def test_a_node_is_named_after_its_host_as_far_as_an_id_can_be(start, host, node):
    assert start("train", NODE_HOSTNAME=host)["FEDLEARN_NODE__ID"] == node


def test_what_the_node_says_of_itself_wins_over_everything(start, tmp_path):
    (tmp_path / "own" / "node.env").write_text("FEDLEARN_NODE__ID='press 1'\nFEDLEARN_TRAINING__EPOCHS=3\n")
    seen = start("train", NODE_HOSTNAME="host", FEDLEARN_NODE__ID="stack", FEDLEARN_TRAINING__EPOCHS="1")
    assert seen["FEDLEARN_NODE__ID"] == "press 1"
    assert seen["FEDLEARN_TRAINING__EPOCHS"] == "3"


@pytest.mark.parametrize(
    ("command", "role", "user"),
    [("manager", "manager", "manager"), ("train", "trainer", "a/trainer"), ("predict", "predictor", "a/predictor"),
     ("status", "operator", "operator")],
)  # fmt: skip
def test_each_service_has_its_own_user_and_password(start, tmp_path, command, role, user):
    file = tmp_path / "own" / f"{role}.password"
    assert "FEDLEARN_BROKER__USERNAME" not in start(command, FEDLEARN_NODE__ID="a")
    file.write_text("secret")
    seen = start(command, FEDLEARN_NODE__ID="a")
    assert (seen["FEDLEARN_BROKER__USERNAME"], seen["FEDLEARN_BROKER__PASSWORD_FILE"]) == (user, str(file))


def test_the_data_broker_has_a_password_of_its_own(start, tmp_path):
    (tmp_path / "own" / "data.password").write_text("secret")
    assert start("generate")["FEDLEARN_DATA_BROKER__USERNAME"] == "node"


@pytest.fixture
def healthy(tmp_path):
    """`healthy(command, turned, heard)`: the verdict when loop and broker were last heard so many seconds ago."""

    def call(command: str, text: str, folder: str = "a/trainer", heard: str = "180") -> bool:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / FILE).write_text(text)
        given = {"PATH": "/usr/bin:/bin", "FEDLEARN_NODE__STATE_DIR": str(tmp_path), "HEARD": heard}
        return subprocess.run([DOCKER / "healthy", command], env=given, check=False, timeout=20).returncode == 0

    return call


def pulse(turned_s: float, heard_s: float) -> str:
    return f"{uptime_s() - turned_s:.2f} {uptime_s() - heard_s:.2f}\n"


def test_healthy_is_what_turned_and_was_heard_lately(healthy):
    assert healthy("train", pulse(10, 20))
    assert not healthy("train", pulse(500, 20))
    assert not healthy("train", pulse(10, 500))


def test_a_fleet_may_be_without_its_broker_for_longer(healthy):
    assert healthy("train", pulse(10, 500), heard="1800")


@pytest.mark.parametrize("text", ["", "\n", "x y", "12.5 inf", "nonsense"])
def test_a_service_that_was_never_heard_is_not_healthy(healthy, text):
    assert not healthy("train", text)


def test_each_service_is_asked_about_itself(healthy):
    fresh = pulse(1, 1)
    assert healthy("manager", fresh, folder="manager")
    assert not healthy("predict", fresh, folder="b/trainer")
    assert healthy("predict", fresh, folder="b/predictor")


def test_what_has_no_pulse_is_healthy_while_it_runs(healthy):
    assert healthy("generate", "")
