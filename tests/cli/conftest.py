"""Commands in this process (`run`), or as real ones (`spawn`)."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dl_mqtt_clients.cli.main import main
from dl_mqtt_clients.cli.running import SIGNALS

DEADLINE_S = 60.0


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def unchanged_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Each test in a folder of its own, without settings of the surroundings; signals and logs as they were."""
    for name in list(os.environ):
        if name.startswith("FEDLEARN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    signals = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    root, ours = logging.getLogger(), logging.getLogger("dl_mqtt_clients")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    for number, handler in signals.items():
        signal.signal(number, handler)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("config", "check")`: the command in this process."""

    def call(*args: str) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(args)
        out, err = capsys.readouterr()
        code = ended.value.code
        return Result(0 if code is None else int(code), out, err)

    return call


class Process:
    """`fedlearn …` as a process, whose lines can be waited for."""

    def __init__(self, *args: str) -> None:
        command = [sys.executable, "-m", "dl_mqtt_clients.cli.main", *args]
        self.name = args[0]
        self.child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: dict[str, list[str]] = {"out": [], "err": []}
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.child.stdout), ("err", self.child.stderr))
        ]
        for reader in self._readers:
            reader.start()

    @property
    def out(self) -> str:
        return "".join(self.lines["out"])

    @property
    def err(self) -> str:
        return "".join(self.lines["err"])

    def wait_for(self, text: str, *, where: str = "err") -> str:
        """The first line with this text; fails when the process ends or the deadline passes without it."""

        def found() -> str | None:
            return next((line for line in self.lines[where] if text in line), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or not any(r.is_alive() for r in self._readers), DEADLINE_S)
            line = found()
        assert line is not None, f"{self.name}: no {text!r} in {self.out!r}, {self.err!r}"
        return line

    def send(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def end(self) -> int:
        """The exit code, once it has ended by itself."""
        code = self.child.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    def kill(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.end()
        for stream in (self.child.stdout, self.child.stderr):
            if stream is not None:
                stream.close()

    def _read(self, name: str, stream: Any) -> None:
        for line in stream:
            with self._changed:
                self.lines[name].append(line)
                self._changed.notify_all()
        with self._changed:
            self._readers = [r for r in self._readers if r is not threading.current_thread()]
            self._changed.notify_all()


Spawn = Callable[..., Process]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`spawn("broker", "--port", "0")`: a real process, killed at the end if it still runs."""
    processes: list[Process] = []

    def start(*args: str) -> Process:
        processes.append(Process(*args))
        return processes[-1]

    yield start
    for process in reversed(processes):
        process.kill()
