"""The manager's disk: published versions stay, generations begin anew, a crash half-way can be repeated."""

import json
import os
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.rounds import Accepted
from dl_mqtt_clients.aggregation.spool import Written
from dl_mqtt_clients.aggregation.store import OpenRound, Stages, Store
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.wire.messages import Blob, Manifest, RoundReport
from dl_mqtt_clients.wire.transfer import sha256
from golden_messages import MANIFEST


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    store.fresh()
    return store


def version(store: Store, number: int, blobs=("weights",), **changes) -> Manifest:
    """A version that is on disk with its blobs."""
    held = {}
    for name in blobs:
        content = f"content of {name} {number}".encode() if name == "weights" else name.encode()
        held[name] = Blob(sha256=store.put_blob(content), bytes=len(content), chunk_bytes=100)
    manifest = msgspec.structs.replace(
        MANIFEST,
        **{"version": sha256(f"{number}".encode()), "number": number, "round": number, "blobs": held,
           "generation": store.generation, **changes},
    )  # fmt: skip
    store.put_version(manifest)
    return manifest


def report(round_: int, attempt: int = 1, **changes) -> RoundReport:
    return RoundReport(round=round_, attempt=attempt, outcome="merged", **changes)


# ---- generations ----


def test_an_empty_folder_has_no_generation_no_version_and_no_round(tmp_path):
    store = Store(tmp_path / "new")
    assert store.generation == 0
    assert store.stages == Stages()
    assert store.open_round() is None
    assert store.history(100) == []
    assert store.versions() == []
    assert store.free_bytes() > 0


def test_a_fresh_start_raises_the_generation_and_deletes_neither_blobs_nor_versions(tmp_path, store):
    old = version(store, 1)
    store.write_stages(Stages(serial=9, current=old, production=old))
    spool = store.write_open_round(OpenRound(round=2))
    store.append_history(report(1))
    store.fresh()
    again = Store(tmp_path)
    assert again.generation == store.generation == 2
    assert again.stages == Stages(serial=9)  # nodes ignore lower ones
    assert again.open_round() is None
    assert again.history(100) == []
    assert not spool.folder.exists()
    assert again.version(old.version) == old
    assert again.blob(old.blobs["weights"].sha256) == b"content of weights 1"
    assert again.versions() == []
    spool.close()


def test_a_generation_may_jump_ahead_but_never_falls_back(tmp_path, store):
    store.fresh(at_least=1_700_000_000)
    assert Store(tmp_path).generation == 1_700_000_000
    store.fresh(at_least=5)
    assert Store(tmp_path).generation == 1_700_000_001


def test_the_history_of_an_older_generation_is_kept_beside_the_new_one(tmp_path, store):
    store.append_history(report(1, number=1))
    store.fresh()
    store.append_history(report(1, number=2))
    assert [r.number for r in store.history(10)] == [2]
    assert b'"number":1' in (tmp_path / "history-1.jsonl").read_bytes()


def test_a_fresh_start_that_is_killed_at_any_step_can_be_repeated(tmp_path, monkeypatch):
    """Either everything is as before, or nothing is published, and the manager begins afresh again."""
    for step in range(12):
        folder = tmp_path / str(step)
        store = Store(folder)
        store.fresh()
        old = version(store, 1)
        store.write_stages(Stages(serial=5, current=old))
        store.write_open_round(OpenRound(round=2)).close()
        store.append_history(report(1))
        with monkeypatch.context() as patch:
            left = [step]
            for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
                patch.setattr(owner, name, dying(getattr(owner, name), left))
            try:
                store.fresh()
            except KeyboardInterrupt:
                assert left[0] < 0
            else:
                assert left[0] >= 0
        again = Store(folder)
        if again.stages.current is not None:
            assert again.stages.current == old
            assert again.open_round() == OpenRound(round=2)
            assert len(again.history(10)) == 1
        again.fresh()
        assert again.generation in (2, 3)
        assert (again.stages, again.open_round(), again.history(10)) == (Stages(serial=5), None, [])
        assert again.version(old.version) == old


def dying(function, left):
    """`function`, until `left` calls were made; then the process is gone."""

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    return call


# ---- blobs and versions ----


def test_a_blob_is_named_by_its_content_and_kept_once(tmp_path, store):
    name = store.put_blob(b"content")
    assert name == sha256(b"content") == store.put_blob(b"content")
    assert store.blob(name) == b"content"
    assert [p.name for p in (tmp_path / "blobs").iterdir()] == [name]


@pytest.mark.parametrize("damage", [b"", b"conten", b"content!", b"cOntent"])
def test_a_blob_that_was_damaged_is_a_state_error(tmp_path, store, damage):
    name = store.put_blob(b"content")
    (tmp_path / "blobs" / name).write_bytes(damage)
    with pytest.raises(StateError, match="its content has another hash"):
        store.blob(name)


def test_a_blob_that_is_not_there_is_a_state_error(store):
    with pytest.raises(StateError, match="cannot be read"):
        store.blob("0" * 64)


def test_versions_come_back_oldest_first(tmp_path, store):
    made = [version(store, n) for n in (3, 1, 10, 2)]
    assert [m.number for m in Store(tmp_path).versions()] == [1, 2, 3, 10]
    assert store.version(made[0].version) == made[0]
    assert store.version("0" * 64) is None


def test_stages_come_back(tmp_path, store):
    stages = Stages(serial=4, current=version(store, 2), production=version(store, 1))
    store.write_stages(stages)
    assert store.stages == Store(tmp_path).stages == stages


def test_half_files_of_a_killed_process_do_not_matter(tmp_path, store):
    kept = version(store, 1)
    for name in ("blobs/.x.1.part", f"versions/.{kept.version}.json.1.part", ".stages.json.1.part"):
        (tmp_path / name).write_bytes(b'{"half":')
    again = Store(tmp_path)
    assert again.versions() == [kept]
    again.keep(1)
    assert not (tmp_path / "blobs/.x.1.part").exists()
    assert again.versions() == [kept]


def test_the_oldest_versions_are_deleted_with_the_blobs_only_they_needed(tmp_path, store):
    old, *new = [version(store, n, blobs=("weights", "architecture")) for n in (1, 2, 3)]
    store.write_stages(Stages(serial=1, current=new[1], production=new[1]))
    store.keep(2)
    assert store.versions() == new
    assert store.version(old.version) is None
    with pytest.raises(StateError):
        store.blob(old.blobs["weights"].sha256)
    assert store.blob(old.blobs["architecture"].sha256) == b"architecture"


def test_blobs_of_a_published_version_stay_even_when_its_record_is_gone(tmp_path, store):
    published = version(store, 1)
    store.write_stages(Stages(serial=1, current=published))
    (tmp_path / "versions" / f"{published.version}.json").unlink()
    store.keep(5)
    assert store.blob(published.blobs["weights"].sha256)


def test_versions_of_older_generations_stay(store):
    old = version(store, 1)
    store.fresh()
    version(store, 1, version="1" * 64)
    store.keep(0)
    assert store.version(old.version) == old
    assert store.blob(old.blobs["weights"].sha256)


@given(
    newest=st.integers(0, 6),
    current=st.none() | st.integers(1, 5),
    production=st.none() | st.integers(1, 5),
    shared=st.sets(st.integers(1, 5)),
)
def test_keeping_deletes_neither_published_versions_nor_new_ones_nor_their_blobs(
    tmp_path_factory, newest, current, production, shared
):
    store = Store(tmp_path_factory.mktemp("store"))
    store.fresh()
    made = {n: version(store, n, blobs=("weights", "backbone") if n in shared else ("weights",)) for n in range(1, 6)}
    store.write_stages(Stages(serial=1, current=made.get(current), production=made.get(production)))
    store.keep(newest)
    expected = sorted(({current, production} - {None}) | set(range(6 - min(newest, 5), 6)))
    assert [m.number for m in store.versions()] == expected
    needed = {b.sha256 for m in store.versions() for b in m.blobs.values()}
    assert all(store.blob(name) for name in needed)
    assert {p.name for p in (store.folder / "blobs").iterdir()} == needed


# ---- rounds ----


def test_an_open_round_comes_back_with_what_was_accepted(tmp_path, store):
    spool = store.write_open_round(OpenRound(round=3, attempt=2, fraction=0.5))
    sink = spool.reserve(4)
    sink.write(0, b"abcd")
    spool.accept(Written(sink, 4, Accepted("a", "0" * 64, 10, None)))
    spool.close()
    again = Store(tmp_path)
    assert again.open_round() == OpenRound(round=3, attempt=2, fraction=0.5)
    spool = again.write_open_round(again.open_round())
    assert [(e.node, bytes(d)) for e, d in spool.updates()] == [("a", b"abcd")]
    spool.close()


def test_another_attempt_begins_with_an_empty_spool(store):
    first = store.write_open_round(OpenRound(round=3))
    second = store.write_open_round(OpenRound(round=3, attempt=2))
    assert first.folder != second.folder
    store.drop_spools(but=second)
    assert not first.folder.exists()
    assert second.folder.exists()
    store.drop_spools()
    assert not second.folder.exists()
    first.close()
    second.close()


def test_a_round_whose_version_was_published_before_the_crash_is_not_open_any_more(tmp_path, store):
    """Else its updates would be merged a second time, onto the version that holds them already."""
    store.write_open_round(OpenRound(round=3)).close()
    store.write_stages(Stages(serial=1, current=version(store, 2)))
    assert Store(tmp_path).open_round() == OpenRound(round=3)
    store.write_stages(Stages(serial=2, current=version(store, 3)))
    assert Store(tmp_path).open_round() is None


# ---- history ----


def test_the_newest_reports_come_oldest_first_and_once_an_attempt(store):
    for r in (report(1), report(2), report(2, attempt=2), report(3), report(3, seconds=2.0), report(1, seconds=1.0)):
        store.append_history(r)
    assert [(r.round, r.attempt, r.seconds) for r in store.history(100)] == [
        (1, 1, 1.0), (2, 1, 0.0), (2, 2, 0.0), (3, 1, 2.0),
    ]  # fmt: skip
    assert [(r.round, r.attempt) for r in store.history(2)] == [(2, 2), (3, 1)]
    assert store.history(0) == []


def test_a_history_cut_at_any_byte_keeps_its_whole_reports_and_takes_the_next(tmp_path, store):
    for n in (1, 2):
        store.append_history(report(n))
    path = tmp_path / "history.jsonl"
    content = path.read_bytes()
    for cut in range(0, len(content) + 1, 7):
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        again = Store(tmp_path)
        again.append_history(report(9))
        assert [r.round for r in again.history(10)] == [*[1, 2][:whole], 9]


# ---- what is not ours ----

CORRUPT = [
    b"",
    b"{",
    b"[1]",
    b'"x"',
    b"7",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"round":"x","generation":"x","serial":-1.5}',
]


@pytest.mark.parametrize("content", CORRUPT, ids=lambda b: str(b)[:20])
@pytest.mark.parametrize("name", ["generation.json", "stages.json", "open.json", f"versions/{'a' * 64}.json"])
def test_corrupt_json_is_a_state_error_that_names_the_file(tmp_path, store, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StateError, match=f"{Path(name).name}: cannot be read"):
        read_everything(Store(tmp_path))


@pytest.mark.parametrize("content", CORRUPT, ids=lambda b: str(b)[:20])
def test_a_corrupt_report_is_a_state_error(tmp_path, store, content):
    (tmp_path / "history.jsonl").write_bytes(content + b"\n")
    with pytest.raises(StateError, match=r"history\.jsonl: a line cannot be read"):
        read_everything(Store(tmp_path))


def read_everything(store: Store) -> None:
    store.open_round()
    store.versions()
    store.history(10)


def test_files_are_readable_json(tmp_path, store):
    store.write_stages(Stages(serial=1, current=version(store, 1)))
    store.write_open_round(OpenRound(round=2)).close()
    assert json.loads((tmp_path / "generation.json").read_bytes()) == {"generation": 1}
    opened = json.loads((tmp_path / "open.json").read_bytes())
    assert opened == {"round": 2, "attempt": 1, "fraction": 1.0, "rules": None, "reason": ""}
    assert json.loads((tmp_path / "stages.json").read_bytes())["current"]["number"] == 1
