"""Commands of ours as child processes, none of which outlives this process or goes unnoticed.

Each child has a log file and a process group of its own, so that Ctrl-C reaches the parent alone, which then ends its
children in order. They end with the parent even when it is killed: see `child`.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from dl_mqtt_clients.errors import FederatedLearningError

STOP_WITHIN_S: Final = 15.0
LAST_LINES: Final = 12

OnExit = Callable[["Child", int], None]


class ChildError(FederatedLearningError):
    """A child process ended though nobody asked it to."""


class Child:
    """One running command. `on_exit(child, code)` is called on a thread of its own."""

    def __init__(
        self, name: str, arguments: Sequence[str], *, log: Path, environ: Mapping[str, str], on_exit: OnExit
    ) -> None:
        self.name = name
        self.log = log
        self.began = time.monotonic()
        command = [sys.executable, "-P", "-m", "dl_mqtt_clients.cli.child", *arguments]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, env=environ, process_group=0
            )
        threading.Thread(target=self._watch, args=(on_exit,), name=f"watch {name}", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask_to_stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended within this time."""
        try:
            self._process.wait(max(timeout_s, 0.0))
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Let go of its lifeline; call when it has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def last_lines(self, most: int = LAST_LINES) -> list[str]:
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, most)]

    def _watch(self, on_exit: OnExit) -> None:
        on_exit(self, self._process.wait())


class Children:
    """All child processes: `with Children(folder, on_exit=…) as children: children.start("a", ["train", …])`."""

    def __init__(self, logs: Path, *, on_exit: OnExit, environ: Mapping[str, str] = os.environ) -> None:
        self._logs = logs
        self._on_exit = on_exit
        self._environ = dict(environ)
        self._children: list[Child] = []

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        log = self._logs / f"{name}.log"
        child = Child(name, arguments, log=log, environ=self._environ, on_exit=self._on_exit)
        self._children.append(child)
        return child

    def stop(self, *, within_s: float = STOP_WITHIN_S) -> list[str]:
        """Ask all to stop and wait; kill those that do not. Idempotent. The names of the killed."""
        deadline = time.monotonic() + within_s
        children, self._children = self._children, []
        killed = []
        try:
            for child in children:
                child.ask_to_stop()
            killed = [child.name for child in children if not child.wait(deadline - time.monotonic())]
        finally:  # also when a second Ctrl-C interrupts the wait
            for child in children:
                child.kill()
                child.close()
        return killed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()


def died(child: Child, code: int) -> ChildError:
    """What to tell when a child ended that should not have."""
    how = f"was ended by a signal ({signal.strsignal(-code)})" if code < 0 else f"ended with exit code {code}"
    lines = child.last_lines()
    said = "\n".join(f"    {line}" for line in lines) if lines else "    (nothing)"
    return ChildError(f"{child.name}: {how}. Its last words ({child.log}):\n{said}")
