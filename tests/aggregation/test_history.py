"""Reports on disk and in memory: bounded in bytes, the newest kept."""

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.files import keep_newest
from dl_mqtt_clients.aggregation.history import HistoryFile
from dl_mqtt_clients.wire.messages import Participant, RoundReport


def report(number: int, *, nodes: int = 1, **changes) -> RoundReport:
    participants = tuple(Participant(node=f"node-{k}", examples=10) for k in range(nodes))
    return RoundReport(**{"round": number, "attempt": 1, "outcome": "merged", "participants": participants} | changes)


def size(reports) -> int:
    return sum(len(msgspec.json.encode(r)) + 1 for r in reports)


def test_no_more_is_held_in_memory_than_allowed_and_always_the_newest(tmp_path):
    history = HistoryFile(tmp_path / "history.jsonl", memory_bytes=1000)
    for number in range(1, 50):
        history.append(report(number))
        held = history.newest(100)
        assert size(held) <= 1000 + len(held)
        assert held[-1] == report(number)
    assert [r.round for r in held] == list(range(50 - len(held), 50))
    history.append(report(50, nodes=100))  # alone more than that
    assert history.newest(100) == [report(50, nodes=100)]


def test_a_report_written_again_takes_no_more_room(tmp_path):
    history = HistoryFile(tmp_path / "history.jsonl", memory_bytes=2000)
    history.append(report(1))
    for seconds in range(100):
        history.append(report(2, seconds=float(seconds)))
    assert [(r.round, r.seconds) for r in history.newest(10)] == [(1, 0.0), (2, 99.0)]


@given(count=st.integers(0, 8), most=st.integers(0, 1500))
def test_as_many_of_the_newest_as_fit(tmp_path_factory, count, most):
    history = HistoryFile(tmp_path_factory.mktemp("history") / "history.jsonl")
    reports = [report(number, nodes=number) for number in range(1, 6)]
    for one in reports:
        history.append(one)
    wanted = reports[-count:] if count else []
    assert history.newest(count) == wanted
    ends = [wanted[start:] for start in range(len(wanted) + 1)]
    assert history.newest(count, most_bytes=most) == next(end for end in ends if size(end) <= most)


def test_the_file_stays_bounded_and_a_restart_finds_the_newest(tmp_path):
    path = tmp_path / "history.jsonl"
    history = HistoryFile(path, disk_bytes=5000)
    for number in range(1, 200):
        history.append(report(number))
        assert path.stat().st_size <= 5000
    again = HistoryFile(path, disk_bytes=5000)
    found = again.newest(1000)
    assert found == history.newest(len(found))
    assert size(found) > 2000
    again.append(report(200))
    assert again.newest(1) == [report(200)]


@example([b"\r\x00"], 2)
@given(st.lists(st.binary(max_size=20).filter(lambda b: b"\n" not in b)), st.integers(0, 200))
def test_a_file_cut_down_keeps_its_last_whole_lines_and_no_fewer_than_fit(tmp_path_factory, lines, most):
    path = tmp_path_factory.mktemp("lines") / "file"
    content = b"".join(line + b"\n" for line in lines)
    path.write_bytes(content)
    keep_newest(path, most)
    kept = path.read_bytes()
    assert content.endswith(kept)
    assert len(kept) <= most
    dropped = content[: len(content) - len(kept)]
    assert dropped == b"" or dropped.endswith(b"\n")
    last_dropped = dropped[dropped.rfind(b"\n", 0, -1) + 1 :]
    assert not dropped or len(kept) + len(last_dropped) > most
    assert [p.name for p in path.parent.iterdir()] == ["file"]
