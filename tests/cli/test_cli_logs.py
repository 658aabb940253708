"""What services say on the standard error."""

import json
import logging

import pytest

from dl_mqtt_clients.cli.logs import CONNECTED, set_up_logs
from dl_mqtt_clients.config import LogSettings

log = logging.getLogger("dl_mqtt_clients.services.trainer")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


def test_text_is_a_line_with_time_level_and_place(capsys):
    set_up_logs(LogSettings())
    log.info("%d readings", 3)
    (line,) = lines(capsys)
    assert line.endswith(" INFO services.trainer: 3 readings")


def test_json_is_an_object_a_line(capsys):
    set_up_logs(LogSettings(format="json"))
    log.warning("two\nlines")
    (line,) = lines(capsys)
    fields = json.loads(line)
    assert (fields["level"], fields["logger"], fields["message"]) == ("warning", log.name, "two\nlines")
    assert fields["time"].endswith("Z")


def test_an_exception_is_part_of_its_json_line(capsys):
    set_up_logs(LogSettings(format="json"))
    try:
        int("because")
    except ValueError:
        log.exception("it failed")
    (line,) = lines(capsys)
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_a_message_cannot_forge_a_line_or_steer_the_terminal(capsys):
    set_up_logs(LogSettings())
    log.info("refused: %s", "x\n2026 INFO services.manager: all is well\x1b[2J")
    (line,) = lines(capsys)
    assert "\x1b" not in line
    assert "x?2026" in line


@pytest.mark.parametrize(("level", "shown"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_the_level_is_that_of_the_settings(capsys, level, shown):
    set_up_logs(LogSettings(level=level))
    log.debug("a")
    log.info("b")
    log.warning("c")
    assert len(lines(capsys)) == shown


def test_libraries_only_warn(capsys):
    set_up_logs(LogSettings(level="debug"))
    logging.getLogger("jax").info("chatter")
    logging.getLogger("jax").warning("trouble")
    assert [line.rpartition(": ")[2] for line in lines(capsys)] == ["trouble"]


def test_that_a_service_is_connected_is_always_said(capsys):
    set_up_logs(LogSettings(level="error"))
    logging.getLogger(CONNECTED).info("manager: connected")
    assert len(lines(capsys)) == 1
