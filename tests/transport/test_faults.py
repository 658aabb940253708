"""Brokers that are down, die, stay silent or talk nonsense; clients that die."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from brokers import DEADLINE_S, Connect, Mosquitto, free_port, needs_mosquitto
from dl_mqtt_clients.transport.base import Address, Will
from dl_mqtt_clients.transport.embedded import EmbeddedBroker
from dl_mqtt_clients.transport.memory import MemoryBroker
from dl_mqtt_clients.transport.mqtt import MqttTransport
from dl_mqtt_clients.transport.packets import Packets

CONNACK = b"\x20\x03\x00\x00\x00"


class InMemory:
    """A memory broker with the handles of a process."""

    def __init__(self, name: str) -> None:
        self.url = f"memory://{name}"
        self._broker = MemoryBroker.named(name)
        self._broker.kill()

    def start(self) -> None:
        self._broker.revive()

    def kill(self) -> None:
        self._broker.kill()


class Embedded(EmbeddedBroker):
    def __init__(self) -> None:
        super().__init__(port=free_port())

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.stop()


@pytest.fixture(params=["memory", "embedded", "mosquitto"])
def broker(request, unique_name, tmp_path):
    """A broker of the test's own, not started: `start`, `kill`, `url`."""
    if request.param == "memory":
        yield InMemory(unique_name)
        MemoryBroker.named(unique_name).forget()
        return
    made = Embedded() if request.param == "embedded" else Mosquitto(tmp_path / "broker")
    yield made
    made.stop()


def test_a_broker_that_is_down_at_start_is_reported_and_connected_to_when_it_comes(broker, connect: Connect) -> None:
    client = connect(broker.url, wait=False)
    client.transport.subscribe("a/b")
    client.wait(lambda: len(client.reasons) >= 2, "two reasons")
    assert client.reasons[0].startswith(f"broker {broker.url}: connection refused; trying again in 0.")
    assert not client.transport.connected
    assert client.transport.publish("a/b", b"nothing is kept") is False
    broker.start()
    client.wait(lambda: client.connections, "connection")
    assert client.transport.publish("a/b", b"heard")
    assert client.wait_messages(1)[0].payload == b"heard"


def test_after_a_kill_of_the_broker_clients_come_back_with_their_subscriptions(broker, connect: Connect) -> None:
    broker.start()
    client = connect(broker.url)
    client.transport.subscribe("kept/+")
    client.transport.subscribe("given up")
    client.transport.unsubscribe("given up")
    client.transport.publish("kept/1", b"", retain=True)
    client.wait_messages(1)
    broker.kill()
    client.wait(lambda: client.reasons, "reason")
    assert "connection lost" in client.reasons[0]
    client.transport.subscribe("new/+")
    broker.start()
    client.wait(lambda: client.connections == 2, "second connection")
    for topic in ("given up", "kept/2", "new/2"):
        assert client.transport.publish(topic, b"")
    client.wait_messages(3)
    assert client.topics()[1:] == ["kept/2", "new/2"]


def test_what_was_handed_over_and_not_sent_is_not_sent_to_the_next_broker(broker, connect: Connect) -> None:
    broker.start()
    client = connect(broker.url)
    broker.kill()
    client.wait(lambda: client.reasons, "reason")
    client.transport.publish("old", b"")
    assert client.transport.backlog == 0
    client.transport.subscribe("#")
    broker.start()
    client.wait(lambda: client.connections == 2, "second connection")
    client.transport.publish("new", b"")
    client.wait_messages(1)
    assert client.topics() == ["new"]


DYING = """
import sys
from dl_mqtt_clients.transport.base import Address, Will, open_transport
transport = open_transport(Address(url=sys.argv[1]), client_id="dying", will=Will("wills/dying", b"lost"))
transport.start(on_message=print, on_connected=lambda: print("connected", flush=True), on_disconnected=print)
sys.stdin.read()
transport.stop()
"""


@pytest.fixture(params=["embedded", "mosquitto"])
def url(request) -> str:
    return request.getfixturevalue(f"shared_{request.param}_url")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_the_will_of_a_client_process_comes_when_it_is_killed_and_not_when_it_stops(url, connect, how) -> None:
    observer = connect(url)
    observer.transport.subscribe("wills/#")
    observer.transport.publish("wills/ready", b"")
    observer.wait_messages(1)
    command = [sys.executable, "-c", DYING, url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "connected\n"
        if how == "killed":
            process.kill()
        else:
            process.stdin.close()
        process.wait(DEADLINE_S)
    if how == "killed":
        message = observer.wait_messages(2)[1]
        assert (message.topic, message.payload) == ("wills/dying", b"lost")
        late = connect(url, "late")
        late.transport.subscribe("wills/dying")
        assert late.wait_messages(1)[0].retained
        late.transport.publish("wills/dying", b"", retain=True)
    else:
        observer.transport.publish("wills/end", b"")
        observer.wait_messages(2)
        assert observer.topics() == ["wills/ready", "wills/end"]


def test_in_memory_the_will_comes_when_a_client_is_dropped_and_it_connects_again(unique_name, connect) -> None:
    url = f"memory://{unique_name}"
    observer = connect(url, "observer")
    observer.transport.subscribe("wills/#")
    client = connect(url, "dying", will=Will("wills/dying", b"lost"))
    MemoryBroker.named(unique_name).drop(f"{unique_name}-dying")
    assert observer.wait_messages(1)[0].payload == b"lost"
    client.wait(lambda: client.connections == 2, "second connection")
    client.transport.stop()
    observer.transport.publish("wills/end", b"")
    observer.wait_messages(2)
    assert observer.topics() == ["wills/dying", "wills/end"]


def test_a_client_that_stops_under_a_flood_of_messages_still_says_goodbye(url, connect, unique_name) -> None:
    observer, sender = connect(url, "observer"), connect(url, "sender")
    observer.transport.subscribe(f"{unique_name}/will")
    observer.transport.publish(f"{unique_name}/will", b"ready")
    observer.wait_messages(1)
    for number in range(5):
        busy = connect(url, f"busy{number}", will=Will(f"{unique_name}/will", b"lost"))
        busy.transport.subscribe(f"{unique_name}/flood", qos=0)
        busy.transport.publish(f"{unique_name}/flood", b"")
        busy.wait_messages(1)
        for _ in range(300):
            sender.transport.publish(f"{unique_name}/flood", b"x" * 10_000, qos=0)
        busy.wait_messages(2)
        busy.transport.stop()
    observer.transport.publish(f"{unique_name}/will", b"end")
    observer.wait_messages(2)
    assert observer.payloads() == [b"ready", b"end"]


class Impostor:
    """Listens like a broker, answers every connection with `answer`, and keeps it open."""

    def __init__(self, answer: bytes, *, close: bool = False) -> None:
        self._answer, self._close = answer, close
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._open.append(client)
                client.recv(1000)
                client.sendall(self._answer)
                if self._close:
                    client.close()

    def close(self) -> None:
        for sock in (*self._open, self._server):
            sock.close()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"\x20\x03\x00\x86\x00", "refused: bad user name or password"),
        (b"\x20\x03\x00\x87\x00", "refused: not authorized"),
        (b"\x20\x02\x00\x01", "refused: unsupported protocol version"),
        (CONNACK + b"\x30\x05\x00\x09ab\x00", "connection lost: PUBLISH: expected QoS 0 or 1 and properties"),
        (CONNACK + b"\x30\x05\x00\x02\xff\xfe\x00", "connection lost: PUBLISH: UnicodeDecodeError"),
        (CONNACK + b"\x30\xff\xff\xff\xff\x7f", "connection lost: packet: expected a length of at most four bytes"),
        (CONNACK + b"\x40\x01\x00", "connection lost: PUBACK: expected a packet id"),
        (CONNACK + b"\x90\x01\x00", "connection lost: malformed packet of type 9"),
        (CONNACK + b"\xe0\x02\x8b\x00", "disconnected by the broker: server shutting down"),
        (CONNACK + b"\x00\x00", "connection lost: .*PROTOCOL"),
    ],
)
def test_a_broker_that_refuses_or_talks_nonsense_is_left_with_its_reason_and_tried_again(
    connect: Connect, answer, reason
) -> None:
    with contextlib.closing(Impostor(answer)) as impostor:
        client = connect(impostor.url, wait=False)
        client.wait(lambda: len(client.reasons) >= 2, "two reasons")
    expected = rf"broker mqtt://127\.0\.0\.1:\d+: {reason}.*; trying again in \d\.\d s"
    assert [told for told in client.reasons[:2] if not re.fullmatch(expected, told)] == []


def test_a_server_that_is_no_broker_is_left_with_a_hint(connect: Connect) -> None:
    with contextlib.closing(Impostor(b"HTTP/1.1 400 Bad Request\r\n\r\n", close=True)) as impostor:
        client = connect(impostor.url, wait=False)
        client.wait(lambda: client.reasons, "reason")
    assert "the broker closed it before it let us in (wrong user name or password" in client.reasons[0]


def test_a_broker_that_never_answers_is_given_up(connect: Connect, monkeypatch) -> None:
    monkeypatch.setattr("dl_mqtt_clients.transport.connection.CONNECT_WITHIN_S", 0.1)
    monkeypatch.setattr("dl_mqtt_clients.transport.connection.LONGEST_WAIT_S", 0.05)
    with contextlib.closing(Impostor(b"")) as impostor:
        client = connect(impostor.url, wait=False)
        client.wait(lambda: client.reasons, "reason")
    assert "connected, but no answer within" in client.reasons[0]


def test_a_broker_that_falls_silent_is_left_after_the_keep_alive(connect: Connect) -> None:
    with contextlib.closing(Impostor(CONNACK)) as impostor:
        client = connect(impostor.url, keepalive_s=1)
        client.wait(lambda: client.reasons, "reason")
    assert "keep alive timeout" in client.reasons[0]


class Script:
    """A broker that follows a script: `script(sock, packets)` after CONNACK, packets being what the client sends."""

    def __init__(self, connack: bytes, script) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, args=(connack, script), daemon=True)
        self._thread.start()

    def _serve(self, connack: bytes, script) -> None:
        sock, _ = self._server.accept()
        with sock, contextlib.suppress(OSError):
            packets = self._packets(sock)
            next(packets)  # CONNECT
            sock.sendall(connack)
            script(sock, packets)

    def _packets(self, sock):
        reader = Packets()
        while data := sock.recv(1000):
            for frame in reader.feed(data):
                yield frame.first, bytes(frame.data[frame.start : frame.end])

    def close(self) -> None:
        self._server.close()
        self._thread.join(DEADLINE_S)


def test_no_more_is_in_flight_than_the_broker_wants_and_order_is_kept(connect: Connect) -> None:
    together: list[int] = []  # how many came before the broker acknowledged any
    numbers: list[int] = []
    done = threading.Event()

    def script(sock, _packets) -> None:
        reader = Packets()
        while len(numbers) < 21:
            sock.recv(1, socket.MSG_PEEK)
            done.wait(0.02)  # time for a client that sends too much
            came = [(frame.data[frame.start + 3 : frame.start + 5], frame) for frame in reader.feed(sock.recv(10_000))]
            together.append(len(came))
            for packet_id, frame in came:
                numbers.append(int(frame.data[frame.start + 6 : frame.end]))
                sock.sendall(b"\x40\x02" + packet_id)
        done.set()

    receive_maximum_2 = b"\x20\x06\x00\x00\x03\x21\x00\x02"
    with contextlib.closing(Script(receive_maximum_2, script)) as broker:
        client = connect(broker.url)
        for number in range(21):
            assert client.transport.publish("a", str(number).encode())
        assert client.transport.backlog > 0
        assert done.wait(DEADLINE_S), numbers
        client.transport.stop()
    assert numbers == list(range(21))
    assert max(together) == 2


@pytest.mark.parametrize(("good_after_s", "delays"), [(0.0, ["0.1", "0.1", "0.1"]), (60.0, ["0.1", "0.2", "0.3"])])
def test_the_back_off_starts_anew_after_a_good_connection(connect: Connect, monkeypatch, good_after_s, delays) -> None:
    monkeypatch.setattr("dl_mqtt_clients.transport.mqtt.delays_s", lambda: iter([0.1, 0.2, 0.3, 9.0]))
    monkeypatch.setattr("dl_mqtt_clients.transport.mqtt.GOOD_AFTER_S", good_after_s)
    with contextlib.closing(Impostor(CONNACK, close=True)) as impostor:
        client = connect(impostor.url, wait=False)
        client.wait(lambda: len(client.reasons) >= 3, "three reasons")
        assert [reason.split()[-2] for reason in client.reasons[:3]] == delays
        client.transport.stop()


def test_a_broker_whose_answer_to_a_ping_stands_behind_much_else_is_alive(connect: Connect) -> None:
    def script(sock, packets) -> None:
        for _ in range(25):
            sock.sendall(b"\x30\x04\x00\x01a\x00")
            threading.Event().wait(0.1)
        sock.sendall(b"\x30\x04\x00\x01b\x00")
        for _ in packets:
            pass

    with contextlib.closing(Script(CONNACK, script)) as broker:
        client = connect(broker.url, keepalive_s=1)
        client.wait(lambda: "b" in client.topics(), "end")
        assert client.reasons == []
        client.transport.stop()


def test_stop_does_not_wait_for_a_broker_that_does_not_answer(connect: Connect) -> None:
    with contextlib.closing(Impostor(b"")) as impostor:
        client = connect(impostor.url, wait=False)
        client.transport.stop(timeout_s=0.2)
        assert client.connections == 0
        assert client.reasons == []


def test_a_handler_may_stop_its_own_transport(url, connect, unique_name) -> None:
    client = connect(url, on_message=lambda _delivery: client.transport.stop())
    client.transport.subscribe(unique_name)
    client.transport.publish(unique_name, b"")
    client.transport._thread.join(DEADLINE_S)
    assert not client.transport._thread.is_alive()
    assert not client.transport.connected


def test_a_host_that_does_not_exist_is_a_reason_like_any_other(connect: Connect) -> None:
    client = connect("mqtt://no-such-host.invalid", wait=False)
    client.wait(lambda: client.reasons, "reason", 60)
    assert client.reasons[0].startswith("broker mqtt://no-such-host.invalid:1883: ")


@needs_mosquitto
def test_a_full_backlog_says_no_instead_of_eating_the_memory(mosquitto, connect, monkeypatch) -> None:
    monkeypatch.setattr("dl_mqtt_clients.transport.connection.MAX_BACKLOG", 50)
    client = connect(mosquitto.url)
    os.kill(mosquitto.pid, signal.SIGSTOP)
    try:
        taken = [client.transport.publish("a", b"x" * 1000) for _ in range(200)]
    finally:
        os.kill(mosquitto.pid, signal.SIGCONT)
    assert taken[0]
    assert not taken[-1]
    assert 20 <= sum(taken) <= 60


def test_the_fast_way_in_is_what_the_installed_paho_gets() -> None:
    from dl_mqtt_clients.transport.connection import Connection

    connection = Connection(
        Address(url="mqtt://nowhere"), client_id="a", will=None, on_message=print, on_ready=lambda: None
    )
    assert connection._client.fast
    assert MqttTransport(Address(url="mqtt://nowhere"), client_id="a")._fast
