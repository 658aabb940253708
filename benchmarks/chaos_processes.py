"""A broker and services as processes that can be killed (-9) and started again under the same names."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks.common import ROOT, mosquitto_binary, wait_for_port

PERSISTENT = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 20000
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 40
"""  # saved every 40 changes: what a kill brings back is a state of the past


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Victim:
    """One process; `ended` once it has ended by itself, with its exit code."""

    def __init__(self, name: str, command: list[object], log: Path) -> None:
        self.name = name
        self.kills = 0
        self._command = [str(word) for word in command]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def ended(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # never left behind
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*tied, *self._command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        self.kills += 1
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class MosquittoVictim(Victim):
    """Mosquitto with persistence on; `forgets` before the next start: as if persistence were off."""

    def __init__(self, folder: Path) -> None:
        binary = mosquitto_binary()
        if binary is None:
            raise FileNotFoundError("mosquitto is not installed")
        folder.mkdir(parents=True)
        self._folder, self._port = folder, free_port()
        self.url = f"mqtt://127.0.0.1:{self._port}"
        conf = PERSISTENT.format(port=self._port, folder=folder) + ("user root\n" if os.geteuid() == 0 else "")
        (folder / "mosquitto.conf").write_text(conf)
        super().__init__("broker", [binary, "-c", folder / "mosquitto.conf"], folder / "mosquitto.log")

    def start(self) -> None:
        super().start()
        wait_for_port(self._port)

    def forget(self) -> None:
        with suppress(FileNotFoundError):
            (self._folder / "mosquitto.db").unlink()


class EmbeddedVictim(Victim):
    """The embedded broker: keeps nothing."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self._port = free_port()
        self.url = f"mqtt://127.0.0.1:{self._port}"
        script = (
            "import sys, time; from dl_mqtt_clients import EmbeddedBroker;"
            f"broker = EmbeddedBroker(port={self._port}).start(); time.sleep(1e6)"
        )  # killed, its pipe closes, and the broker proper exits
        super().__init__("broker", [sys.executable, "-c", script], folder / "broker.log")

    def start(self) -> None:
        self._wait_until_free()
        super().start()
        wait_for_port(self._port)

    def forget(self) -> None:
        """It does so anyway."""

    def _wait_until_free(self) -> None:
        for _ in range(200):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with suppress(OSError):
                    probe.bind(("127.0.0.1", self._port))
                    return
            time.sleep(0.02)


def service(role: str, folder: Path, url: str, kind: str, rounds: int, *node: str) -> Victim:
    name = node[0] if node else role
    command = [sys.executable, "-m", "benchmarks.chaos_nodes", role, folder, url, kind, rounds, *node]
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    return Victim(name, command, folder / "logs" / f"{name}.log")
