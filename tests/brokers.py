"""Real brokers for tests: Mosquitto (skipped visibly where it is not installed) and the embedded one.

`broker_url` runs a test on memory, embedded and Mosquitto; these are shared by the whole session, so use
`unique_name` in client ids and topics. `mosquitto` and `embedded` are a test's own, to be killed and restarted.
"""

import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from dl_mqtt_clients.transport.base import Address, Delivery, Transport, Will, open_transport
from dl_mqtt_clients.transport.embedded import EmbeddedBroker
from dl_mqtt_clients.transport.memory import MemoryBroker

DEADLINE_S = 10.0
OUR_CONF = Path(__file__).parents[1] / "configuration" / "mosquitto" / "mosquitto.conf"


def mosquitto_binary() -> str | None:
    return shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


needs_mosquitto = pytest.mark.skipif(mosquitto_binary() is None, reason="mosquitto is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Mosquitto:
    """A mosquitto process on one port: `start`, `stop`, `kill` (-9), `restart`.

    `conf` holds further lines of configuration; `anonymous=False` leaves letting people in to them. `listener=False`
    leaves the listener to them too, with `{port}` for the port.
    """

    def __init__(
        self, folder: Path, *, conf: str = "", anonymous: bool = True, listener: bool = True, scheme: str = "mqtt"
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        lines = [f"listener {self.port} 127.0.0.1"] if listener else []
        lines += ["allow_anonymous true"] if anonymous else []
        lines += ["user root"] if os.geteuid() == 0 else []  # else it could not read the test's folder
        self._conf = "\n".join([*lines, conf.replace("{port}", str(self.port)), ""])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start(self) -> Self:
        binary = mosquitto_binary()
        if binary is None:
            pytest.skip("mosquitto is not installed")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "mosquitto.conf"
        path.write_text(self._conf)
        path.chmod(0o644)
        tied = [shutil.which("setpriv"), "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # never left behind
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [*tied, binary, "-c", str(path), "-v"]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for_port(self.port, self._process, lambda: self.log)
        return self

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """As a power cut would: no DISCONNECT, no wills, nothing saved."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        self.kill()
        return self.start()

    def _end(self, sign: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(sign)
            self._process.wait(DEADLINE_S)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGTERM)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Callable[[], str]) -> None:
    """Until something listens there; fails with the process's log when it ends or takes too long."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < deadline, log()
            else:
                pytest.fail(f"mosquitto ended: {log()}")
        else:
            return


class Client:
    """A transport whose events tests can wait for: `messages`, `connections`, `reasons`."""

    def __init__(self, transport: Transport, *, on_message: Callable[[Delivery], None] | None = None) -> None:
        self.transport = transport
        self.messages: list[Delivery] = []
        self.connections = 0
        self.reasons: list[str] = []
        self._changed = threading.Condition()
        self._on_message = on_message

    def start(self, *, wait: bool = True) -> Self:
        self.transport.start(on_message=self._message, on_connected=self._connected, on_disconnected=self._disconnected)
        if wait:
            self.wait(lambda: self.connections, "a connection")
        return self

    def wait(
        self, condition: Callable[[], object], what: str = "the condition", deadline_s: float = DEADLINE_S
    ) -> None:
        """Until `condition()` is true, looked at after every event; fails after `deadline_s`."""
        with self._changed:
            if not self._changed.wait_for(condition, deadline_s):
                pytest.fail(f"no {what} within {deadline_s} s; {self.messages[-3:]!r:.300} {self.reasons[-3:]}")

    def wait_messages(self, count: int, deadline_s: float = DEADLINE_S) -> list[Delivery]:
        self.wait(lambda: len(self.messages) >= count, f"{count} messages (got {len(self.messages)})", deadline_s)
        return self.messages

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]

    def payloads(self) -> list[bytes]:
        return [bytes(message.payload) for message in self.messages]

    def _message(self, delivery: Delivery) -> None:
        if self._on_message is not None:
            self._on_message(delivery)
        with self._changed:
            self.messages.append(delivery)
            self._changed.notify_all()

    def _connected(self) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()

    def _disconnected(self, reason: str) -> None:
        with self._changed:
            self.reasons.append(reason)
            self._changed.notify_all()


Connect = Callable[..., Client]


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> str:
    """A name for topics, clients and brokers, from the test's own."""
    return re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:50]


@pytest.fixture
def connect(unique_name: str) -> Iterator[Connect]:
    """`connect(url, name="a", will=…, on_message=…, wait=True, **address)`: a started client, stopped at the end."""
    clients: list[Client] = []

    def make(
        url: str,
        name: str = "a",
        *,
        will: Will | None = None,
        wait: bool = True,
        on_message: Callable[[Delivery], None] | None = None,
        transport: Callable[..., Transport] = open_transport,
        **address: object,
    ) -> Client:
        made = transport(Address(url=url, **address), client_id=f"{unique_name}-{name}", will=will)
        client = Client(made, on_message=on_message)
        clients.append(client)
        return client.start(wait=wait)

    yield make
    for client in clients:
        client.transport.stop()


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A Mosquitto of the test's own, with the default configuration."""
    with Mosquitto(tmp_path / "mosquitto") as broker:
        yield broker


@pytest.fixture
def embedded() -> Iterator[EmbeddedBroker]:
    """An embedded broker of the test's own."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def shared_embedded_url() -> Iterator[str]:
    with EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture(scope="session")
def shared_mosquitto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Mosquitto's own defaults: what a user who has a broker has."""
    with Mosquitto(tmp_path_factory.mktemp("mosquitto-defaults")) as broker:
        yield broker.url


@pytest.fixture(scope="session")
def shared_our_mosquitto_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Mosquitto with the project's configuration, on another port and folder."""
    folder = tmp_path_factory.mktemp("mosquitto-ours")
    with Mosquitto(folder, conf=our_configuration(folder), listener=False, anonymous=False) as broker:
        yield broker.url


def our_configuration(folder: Path, *, users: Mapping[str, str] | None = None) -> str:
    """The project's mosquitto.conf for a test: another port and folder; without `users` everybody may come in."""
    folder.mkdir(parents=True, exist_ok=True)
    text = OUR_CONF.read_text()
    changes = {"listener 1883": "listener {port} 127.0.0.1", "/var/lib/mosquitto/": f"{folder}/"}
    if users is None:
        changes |= {"allow_anonymous false": "allow_anonymous true", "password_file /etc/mosquitto/fedlearn/passwd": ""}
    else:
        changes |= {"/etc/mosquitto/fedlearn/passwd": str(password_file(folder / "passwd", users))}
    for old, new in changes.items():
        text, found = re.subn(rf"(?m)^([^#\n]*){re.escape(old)}", rf"\g<1>{new}", text)
        assert found == 1, old
    return text


def password_file(path: Path, users: Mapping[str, str]) -> Path:
    """A file as `mosquitto_passwd` writes it."""
    lines = []
    for name, password in users.items():
        salt = os.urandom(12)
        hashed = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101)
        lines.append(f"{name}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(hashed).decode()}\n")
    path.write_text("".join(lines))
    path.chmod(0o644)
    return path


@pytest.fixture(params=["memory", "embedded", "mosquitto"])
def broker_url(request: pytest.FixtureRequest, unique_name: str) -> Iterator[str]:
    """The test's broker, once for each kind. Shared by the session: use unique names."""
    if request.param == "memory":
        yield f"memory://{unique_name}"
        MemoryBroker.named(unique_name).forget()
    else:
        yield request.getfixturevalue(f"shared_{request.param}_url")
