"""A broker for one machine: rumqttd (through iotcore), speaking MQTT 5, in a process of its own.

rumqttd cannot be stopped inside a process, so it runs as a child. The child lives as long as a pipe that its
parent holds: when the parent ends, however it ends, the pipe closes and the child exits. It ignores Ctrl-C, which
reaches it too, so that services can say goodbye before `stop` ends it.

Good for a demonstration and for tests. It keeps nothing on disk, and tells a client with a wrong password nothing: it
just closes the connection. Mosquitto is the broker for production.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from dl_mqtt_clients.errors import TransportError

READY_WITHIN_S: Final = 15.0
_CONNECT: Final = b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x05\x00\x00\x00"  # MQTT 5, clean start, no client id

# `max_outgoing_packet_count` is the queue of one subscriber: beyond it messages are dropped. Segments hold the
# newest messages of one topic filter: 10 x 10 MiB each, and always at least the newest message whatever its size.
_TOML: Final = """\
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 10000
max_segment_size = 10485760
max_segment_count = 10
[v5.1]
name = "mqtt5"
listen = {listen}
next_connection_delay_ms = 0
[v5.1.connections]
connection_timeout_ms = 10000
max_payload_size = 268435455
max_inflight_count = 500
dynamic_filters = true
{auth}"""


class EmbeddedBroker:
    """`with EmbeddedBroker() as broker: open_transport(Address(url=broker.url), …)`.

    `users` maps names to passwords; None lets everybody in. Port 0 takes a free one, kept over `stop` and `start`.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, users: Mapping[str, str] | None = None) -> None:
        self.host = host
        self.port = port
        self._users = users
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline = -1  # the child lives as long as this end of its stdin is open

    @property
    def url(self) -> str:
        return f"mqtt://{_reachable(self.host)}:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process, None when it does not run."""
        return self._child.pid if self._child and self._child.poll() is None else None

    def start(self) -> Self:
        """Start, and return when it answers. TransportError when it does not, or the port is taken."""
        if self.pid is not None:
            return self
        self.port = _claim_port(self.host, self.port)
        users = None if self._users is None else dict(self._users)
        settings = json.dumps({"listen": f"{self.host}:{self.port}", "users": users})
        stdin, self._lifeline = os.pipe()
        try:
            command = [sys.executable, "-P", "-m", "dl_mqtt_clients.transport.embedded"]
            self._child = subprocess.Popen(command, stdin=stdin)
            os.write(self._lifeline, settings.encode() + b"\n")  # not as arguments: `ps` would show passwords
            self._wait_until_ready(self._child)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(stdin)
        return self

    def stop(self, *, timeout_s: float = 5.0) -> None:
        """End the broker and free its port. Idempotent."""
        child, self._child = self._child, None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        if child is None:
            return
        child.terminate()
        try:
            child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not _answers(_reachable(self.host), self.port):
            try:
                code = child.wait(0.02)
            except subprocess.TimeoutExpired:
                code = None
            if code is not None:
                raise TransportError(f"embedded broker at {self.url}: ended while starting, exit code {code}")
            if time.monotonic() > deadline:
                raise TransportError(f"embedded broker at {self.url}: no answer within {READY_WITHIN_S:.0f} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _reachable(host: str) -> str:
    """Where to connect for a broker that listens on `host`."""
    return "127.0.0.1" if host == "0.0.0.0" else host  # noqa: S104 - compared, not bound


def _claim_port(host: str, port: int) -> int:
    """A port that was free a moment ago: `port`, or any for 0. TransportError when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise TransportError(f"embedded broker: cannot listen on {host}:{port}: {error.strerror}") from error
        return int(probe.getsockname()[1])


def _answers(host: str, port: int) -> bool:
    """Whether a broker answers CONNECT there; rumqttd refuses by closing the connection without a word."""
    try:
        with socket.create_connection((host, port), timeout=1.0) as probe:
            probe.sendall(_CONNECT)
            return probe.recv(1) in (b"\x20", b"")
    except OSError:
        return False


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are a subset of TOML's."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def _serve() -> None:
    """The child's whole life: settings from stdin, then the broker until stdin closes."""
    from iotcore.iotcore import IotCoreBroker  # noqa: PLC0415 - only the child needs it

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = json.loads(sys.stdin.buffer.readline() or b"null")
    if settings is None:
        return
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)  # it logs every packet as an error
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    users = settings["users"]
    auth = "" if users is None else "[v5.1.connections.auth]\n"
    auth += "\n".join(f"{_quoted(name)} = {_quoted(password)}" for name, password in (users or {}).items())
    with tempfile.TemporaryDirectory(prefix="fedlearn-broker-") as folder:  # only ours to read
        path = Path(folder) / "rumqttd.toml"
        path.write_text(_TOML.format(listen=_quoted(settings["listen"]), auth=auth), encoding="utf-8")
        broker = IotCoreBroker(config_path=str(path))
    broker.run_forever()


def _exit_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _serve()
