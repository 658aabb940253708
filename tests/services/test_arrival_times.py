"""When a window's readings came, over restarts: what is kept, what is bounded, what is not known any more."""

import msgspec
import pytest

from dl_mqtt_clients.data.arrivals import Span
from dl_mqtt_clients.services import arrival_times
from dl_mqtt_clients.services.arrival_times import ArrivalTimes


@pytest.fixture
def clock(monkeypatch):
    """`clock[0]`: the time, in seconds."""
    now = [1000.0]
    monkeypatch.setattr(arrival_times, "steady_s", lambda: now[0])
    return now


@pytest.fixture
def file(tmp_path):
    return tmp_path / "arrivals.json"


@pytest.fixture
def kept(file, clock):
    """Ten readings that came at 990 to 991, and ten at 1000; saved."""
    times = ArrivalTimes(file, total=0)
    times.add(10, 990.0, 991.0, held=10)
    times.add(20, 1000.0, 1000.0, held=20)
    times.save()
    return times


def test_a_restart_keeps_them(kept, file, clock):
    clock[0] = 2000.0
    again = ArrivalTimes(file, total=20)
    assert again.span(0, 20) == Span(990.0, 1000.0)
    again.add(30, 1999.0, 2000.0, held=30)
    assert again.span(0, 30) == Span(990.0, 2000.0)


def test_what_a_crash_left_unsaved_came_since_the_last_mark_and_before_the_restart(kept, file, clock):
    kept.add(25, 1010.0, 1011.0, held=25)
    clock[0] = 2000.0
    again = ArrivalTimes(file, total=25)
    assert again.span(0, 20) == Span(990.0, 1000.0)
    assert again.span(20, 25) == Span(1000.0, 2000.0)


def test_a_crash_loses_a_minute_at_most(kept, file, clock):
    kept.add(25, 1010.0, 1011.0, held=25)
    clock[0] += arrival_times.SAVE_EVERY_S
    kept.add(30, 1059.0, 1060.0, held=30)
    assert ArrivalTimes(file, total=30).span(20, 30) == Span(1010.0, 1060.0)


def test_nothing_is_known_of_readings_an_older_release_had_held(file, clock):
    times = ArrivalTimes(file, total=500)
    times.add(510, 999.0, 1000.0, held=400)
    assert times.span(300, 510) == Span(None, 1000.0)
    assert ArrivalTimes(file, total=510).span(505, 510) == Span(None, None)


def test_readings_that_the_window_dropped_are_forgotten(kept, file):
    kept.add(30, 1002.0, 1003.0, held=15)
    kept.save()
    assert len(msgspec.json.decode(file.read_bytes())["marks"]) == 2


@pytest.mark.parametrize(
    ("content", "total"),
    [
        pytest.param(None, 19, id="of-another-spool"),
        pytest.param(b"", 20, id="empty"),
        pytest.param(b"{}", 20, id="of-nothing"),
        pytest.param(b"[" * 100_000, 20, id="deep"),
        pytest.param(b'{"first": 0, "marks": [[20, 1.0]]}', 20, id="half-a-mark"),
        pytest.param(b'{"first": 0, "marks": [[20, 2.0, 1.0]]}', 20, id="ends-before-it-begins"),
        pytest.param(b'{"first": 0, "marks": [[20, 2.0, 1e9]]}', 20, id="of-times-to-come"),
    ],
)
def test_what_cannot_be_is_not_known_and_overwritten_at_once(kept, file, content, total):
    if content is not None:
        file.write_bytes(content)
    assert ArrivalTimes(file, total=total).span(0, total) == Span(None, None)
    assert msgspec.json.decode(file.read_bytes()) == {"first": total, "marks": []}


def test_a_disk_that_takes_nothing_costs_only_the_memory_over_a_restart(tmp_path, clock):
    (tmp_path / "file").touch()
    for file in (None, tmp_path / "file" / "arrivals.json"):
        times = ArrivalTimes(file, total=0)
        times.add(10, 990.0, 991.0, held=10)
        times.save()
        assert times.span(0, 10) == Span(990.0, 991.0)
