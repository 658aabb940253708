"""The spool: what counts survives a crash at any byte, and nothing else does."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.rounds import Accepted
from dl_mqtt_clients.aggregation.spool import Spool, Written
from dl_mqtt_clients.errors import StateError


def content_of(node: str, size: int) -> bytes:
    return (hashlib.sha256(node.encode()).digest() * (size // 32 + 1))[:size]


def put(spool: Spool, node: str, size: int = 100) -> bytes:
    data = content_of(node, size)
    sink = spool.reserve(size)
    sink.write(0, data)
    spool.accept(Written(sink, size, Accepted(node, hashlib.sha256(data).hexdigest(), 10, 0.5)))
    return data


def held(spool: Spool) -> dict[str, bytes]:
    return {entry.node: bytes(data) for entry, data in spool.updates()}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rounds" / "000001-1"


@pytest.fixture
def spool(folder):
    spool = Spool(folder)
    yield spool
    spool.close()


def reopened(folder):
    spool = Spool(folder)
    try:
        return list(spool.entries), held(spool)
    finally:
        spool.close()


def test_accepted_updates_are_there_in_order_before_and_after_a_restart(folder, spool):
    expected = {node: put(spool, node, size) for node, size in (("a", 100), ("b", 1), ("c", 5000))}
    assert held(spool) == expected
    assert [e.node for e in spool.entries] == ["a", "b", "c"]
    assert reopened(folder) == (spool.entries, expected)
    assert spool.entries[0].accepted() == Accepted("a", hashlib.sha256(expected["a"]).hexdigest(), 10, 0.5)


def test_the_journal_is_a_readable_line_an_update(folder, spool):
    put(spool, "a")
    hash_ = hashlib.sha256(content_of("a", 100)).hexdigest()
    assert (folder / "accepted.jsonl").read_text() == (
        f'{{"node":"a","sha256":"{hash_}","offset":0,"bytes":100,"examples":10,"loss":0.5,"staleness":0,"steps":1,'
        '"data_from":null,"data_to":null}\n'
    )


def test_a_journal_of_an_older_manager_knows_no_data_times(folder, spool):
    put(spool, "a")
    journal = folder / "accepted.jsonl"
    journal.write_text(journal.read_text().replace(',"data_from":null,"data_to":null', ""))
    assert reopened(folder)[0] == spool.entries


def test_what_was_written_is_seen_before_it_counts(spool):
    sink = spool.reserve(4)
    sink.write(0, b"abcd")
    assert bytes(spool.view(sink, 4)) == b"abcd"
    assert held(spool) == {}


def test_an_update_that_was_not_accepted_is_gone_after_a_restart_and_its_room_is_used_again(folder, spool):
    put(spool, "a")
    spool.reserve(1000).write(0, b"x" * 1000)
    assert set(reopened(folder)[1]) == {"a"}
    again = Spool(folder)
    expected = put(again, "b", 50)
    assert again.entries[1].offset == 100
    assert held(again) == {"a": content_of("a", 100), "b": expected}
    again.close()


def test_a_crash_at_any_byte_of_the_journal_keeps_exactly_the_updates_whose_line_is_whole(folder, spool):
    expected = {node: put(spool, node) for node in "abc"}
    journal = folder / "accepted.jsonl"
    content, updates = journal.read_bytes(), (folder / "updates.bin").read_bytes()
    for cut in range(len(content) + 1):
        journal.write_bytes(content[:cut])
        (folder / "updates.bin").write_bytes(updates)
        whole = content[:cut].count(b"\n")
        assert reopened(folder)[1] == dict(list(expected.items())[:whole])
        again = Spool(folder)
        put(again, "next")
        again.close()
        assert list(reopened(folder)[1]) == [*"abc"[:whole], "next"]


def test_the_bytes_are_durable_before_the_line_that_counts_them(folder, spool, monkeypatch):
    sync, steps = os.fdatasync, []

    def note(descriptor):
        steps.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    monkeypatch.setattr(os, "fdatasync", note)
    put(spool, "a")
    assert steps == ["updates.bin", "accepted.jsonl"]


def test_an_update_whose_bytes_could_not_be_made_durable_does_not_count(folder, spool, monkeypatch):
    def broken(_descriptor):
        raise OSError("input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="input/output"):
        put(spool, "a")
    assert spool.entries == []
    assert reopened(folder) == ([], {})


@pytest.mark.parametrize("size", [0, 1, 299])
def test_a_data_file_that_is_too_short_is_a_state_error(folder, spool, size):
    for node in "abc":
        put(spool, node)
    os.truncate(folder / "updates.bin", size)
    with pytest.raises(StateError, match=rf"updates\.bin: expected at least 300 bytes. Found: {size}"):
        Spool(folder)


def test_a_data_file_that_is_gone_is_a_state_error(folder, spool):
    put(spool, "a")
    (folder / "updates.bin").unlink()
    with pytest.raises(StateError, match=r"updates\.bin: expected at least 100 bytes"):
        Spool(folder)


def test_a_data_file_that_is_longer_does_not_matter(folder, spool):
    expected = put(spool, "a")
    with (folder / "updates.bin").open("ab") as file:
        file.write(b"half an update that was being received")
    assert reopened(folder)[1] == {"a": expected}


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"",
        b"[1]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"node":"a","sha256":"b","offset":-1,"bytes":1,"examples":1}',
        b'{"node":"a","sha256":"b","offset":0,"bytes":0,"examples":1}',
        b'{"node":"a","sha256":"b","offset":0,"bytes":1,"examples":0}',
        b'{"node":"a","sha256":"b","offset":0,"bytes":1,"examples":1e9}',
        b'{"node":"a","sha256":"b","offset":0,"bytes":1,"examples":1,"data_to":1e12}',
    ],
    ids=lambda b: str(b)[:40],
)
def test_a_whole_line_that_is_not_ours_is_a_state_error(folder, spool, line):
    (folder / "accepted.jsonl").write_bytes(line + b"\n")
    with pytest.raises(StateError, match=r"accepted\.jsonl: a line cannot be read"):
        Spool(folder)


def test_room_given_back_is_used_again_for_an_update_of_that_size_only(spool):
    first = spool.reserve(100)
    spool.reserve(100)
    spool.give_back(first, 100)
    assert spool.reserve(50).start == 200
    assert spool.reserve(100).start == first.start
    assert spool.reserve(100).start == 250


@given(st.lists(st.tuples(st.sampled_from(["accept", "refuse", "hold", "restart"]), st.integers(1, 4)), max_size=20))
def test_updates_never_overlap_whatever_is_refused_kept_open_or_restarted(tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("spool") / "000001-1"
    spool, expected, open_ = Spool(folder), {}, {}
    for number, (step, size) in enumerate(steps):
        if step == "restart":
            spool.close()
            spool, open_ = Spool(folder), {}
            continue
        node, sink = f"n{number}", spool.reserve(size)
        sink.write(0, content_of(node, size))
        if step == "refuse":
            spool.give_back(sink, size)
        elif step == "hold":
            open_[node] = (sink, size)
        else:
            spool.accept(Written(sink, size, Accepted(node, "0" * 64, 1, None)))
            expected[node] = content_of(node, size)
    assert held(spool) == expected
    assert all(bytes(spool.view(sink, size)) == content_of(node, size) for node, (sink, size) in open_.items())
    spool.close()
