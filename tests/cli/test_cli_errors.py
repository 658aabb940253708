"""What an error looks like, and the exit codes."""

import pytest

from brokers import free_port
from dl_mqtt_clients.cli import status
from dl_mqtt_clients.cli.main import main
from dl_mqtt_clients.errors import DataError, DuplicateInstanceError, StateError


def raises(error: Exception):
    def look(*_args, **_kwargs):
        raise error

    return look


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("rows: expected some.\nReceived: none"), 1),
        (StateError("a: b"), 1),
        (PermissionError(13, "Permission denied", "/x"), 1),
        (DuplicateInstanceError("another process"), 3),
    ],
)
def test_an_error_is_one_clean_line(run, monkeypatch, error, code):
    monkeypatch.setattr(status, "_look", raises(error))
    result = run("status")
    assert result.code == code
    assert result.out == ""
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("fedlearn: ")


def test_an_error_of_ours_is_not_hidden(monkeypatch):
    monkeypatch.setattr(status, "_look", raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        main(["status"])


@pytest.mark.parametrize("command", [("status",), ("send", "pause")])
def test_a_broker_that_is_not_there_is_said_at_once(run, command):
    url = f"mqtt://127.0.0.1:{free_port()}"
    result = run(*command, "--broker", url)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"fedlearn: broker {url}: connection refused\n"


def test_wrong_usage_exits_2(run):
    assert run("send", "dance").code == 2
    assert run("broker", "--port", "70000").code == 2
    assert run("status", "--timeout", "nan").code in (1, 2)
