"""Child processes: noticed when they end, ended when the parent ends."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from descendants import descendants, survivors
from dl_mqtt_clients.cli.processes import Child, Children, died

BROKER = ("broker", "--port", "0")  # the lightest command that stays
DEADLINE_S = 30.0

PARENT = """
import sys, threading
from pathlib import Path
from dl_mqtt_clients.cli.processes import Children
children = Children(Path(sys.argv[1]), on_exit=lambda *_: None)
children.start("broker", ["broker", "--port", "0"])
print("started", flush=True)
threading.Event().wait()
"""


class Exits:
    """What `on_exit` was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self._happened = threading.Event()

    def __call__(self, child: Child, code: int) -> None:
        self.told.append((child.name, code))
        self._happened.set()

    def wait(self) -> list[tuple[str, int]]:
        assert self._happened.wait(DEADLINE_S)
        return self.told


def wait_for_line(child: Child) -> str:
    """Until the child has written something."""
    deadline = threading.Event()
    for _ in range(int(DEADLINE_S / 0.05)):
        if child.last_lines():
            return child.last_lines()[0]
        deadline.wait(0.05)
    pytest.fail(f"{child.name} wrote nothing")


def test_a_child_that_ends_is_told_with_its_exit_code(tmp_path):
    exits = Exits()
    with Children(tmp_path, on_exit=exits) as children:
        child = children.start("check", ["config", "check", "--set", "training.epochs=0"])
        assert exits.wait() == [("check", 2)]
    assert "training.epochs: expected" in child.last_lines()[0]


def test_children_are_asked_to_stop_and_their_output_is_kept(tmp_path):
    exits = Exits()
    with Children(tmp_path, on_exit=exits) as children:
        child = children.start("broker", BROKER)
        assert wait_for_line(child).startswith("mqtt://")
        assert children.stop(within_s=DEADLINE_S) == []
    assert exits.wait() == [("broker", 0)]
    assert (tmp_path / "broker.log").read_text().startswith("mqtt://")


def test_a_child_that_does_not_stop_is_killed_and_named(tmp_path):
    exits = Exits()
    with Children(tmp_path, on_exit=exits) as children:
        child = children.start("broker", BROKER)
        wait_for_line(child)
        os.kill(child.pid, signal.SIGSTOP)
        assert children.stop(within_s=0.2) == ["broker"]
    assert exits.wait() == [("broker", -signal.SIGKILL)]


def test_a_dead_childs_last_words_are_told(tmp_path):
    exits = Exits()
    with Children(tmp_path, on_exit=exits) as children:
        child = children.start("broker", BROKER)
        wait_for_line(child)
        os.kill(child.pid, signal.SIGKILL)
        (_, code) = exits.wait()[0]
    error = str(died(child, code))
    assert error.startswith("broker: was ended by a signal (Killed). Its last words")
    assert "    mqtt://127.0.0.1:" in error
    assert str(tmp_path / "broker.log") in error


def test_a_child_that_said_nothing_is_told_too(tmp_path):
    exits = Exits()
    with Children(tmp_path, on_exit=exits) as children:
        child = children.start("example", ["config", "check"])
        exits.wait()
        child.log.write_text("")
        words = f"example: ended with exit code 7. Its last words ({child.log}):\n    (nothing)"
        assert str(died(child, 7)) == words


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_survives_its_parent_however_it_ends(tmp_path, number):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        children = descendants(parent.pid)
        assert any("broker" in child.command for child in children)
        parent.send_signal(number)
        assert survivors(children, within_s=DEADLINE_S) == []
    finally:
        parent.kill()
        parent.communicate()


def test_ctrl_c_on_the_terminal_reaches_the_parent_only(tmp_path):
    """Children have a process group each, so that the parent ends them in its own time."""
    with Children(tmp_path, on_exit=Exits()) as children:
        child = children.start("broker", BROKER)
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
