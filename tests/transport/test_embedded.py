"""The embedded broker as a process: it never outlives its parent, and its port is its own."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from brokers import DEADLINE_S, Connect, free_port
from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

PARENT = """
import sys
from dl_mqtt_clients.transport.embedded import EmbeddedBroker
broker = EmbeddedBroker().start()
print(broker.pid, broker.port, flush=True)
sys.stdin.read()
"""


def is_gone(pid: int) -> bool:
    """Waits for a process that is not our child to end."""
    descriptor = None
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    import select

    try:
        return bool(select.select([descriptor], [], [], DEADLINE_S)[0])
    finally:
        os.close(descriptor)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux's pidfd")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_broker_ends_with_its_parent_however_that_ends(sign) -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        pid, port = map(int, parent.stdout.readline().split())
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        parent.send_signal(sign)
        parent.wait(DEADLINE_S)
    assert is_gone(pid)


def test_ctrl_c_does_not_reach_the_broker_so_that_services_can_say_goodbye(embedded, connect) -> None:
    client = connect(embedded.url)
    os.kill(embedded.pid, signal.SIGINT)
    client.transport.subscribe("a")
    client.transport.publish("a", b"")
    client.wait_messages(1)
    assert client.reasons == []


def test_it_can_be_stopped_and_started_again_on_its_port(connect: Connect) -> None:
    broker = EmbeddedBroker()
    with broker:
        port, pid = broker.port, broker.pid
        assert broker.start().pid == pid
    assert broker.pid is None
    with broker:
        assert broker.port == port
        assert broker.url == f"mqtt://127.0.0.1:{port}"
        connect(broker.url)
    broker.stop()


def test_a_port_that_is_taken_is_said() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TransportError, match=f"cannot listen on 127.0.0.1:{port}"):
            EmbeddedBroker(port=port).start()


def test_passwords_are_not_in_the_process_list(tmp_path) -> None:
    with EmbeddedBroker(users={"manager": "hidden-word"}) as broker:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "args", "-p", str(broker.pid)], capture_output=True, text=True, check=True
        )
    assert "embedded" in listed.stdout
    assert "hidden-word" not in listed.stdout
