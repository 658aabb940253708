import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.ring import CHUNK
from dl_mqtt_clients.data.window import Window
from dl_mqtt_clients.errors import DataError, StateError

FEATURES = 3
HEADER = 4096


def rows(first, n):
    """Readings that tell their absolute index in every column, and in the label."""
    index = np.arange(first, first + n)
    return np.repeat(index[:, None], FEATURES, axis=1).astype(np.float32), (index % 100).astype(np.int8)


def fill(window, n, *, batch=7):
    while window.total < n:
        first = window.total
        window.append(*rows(first, min(batch, n - first)))


def indices(snapshot):
    """The absolute indices in a snapshot, after checking that every row is whole."""
    found = snapshot.x[:, 0].astype(int)
    assert (snapshot.x == found[:, None]).all()
    assert (snapshot.labels == found % 100).all()
    return found.tolist()


def make(path, capacity=100, *, features=FEATURES, **options):
    return Window(capacity, features, spool=path, **options)


@pytest.fixture(params=["memory", "spooled"])
def spool(request, tmp_path):
    return tmp_path / "window.spool" if request.param == "spooled" else None


def test_the_newest_stay_and_the_oldest_go(spool):
    with make(spool, holdout=0.0) as window:
        fill(window, 5000)
        assert indices(window.snapshot()) == list(range(4900, 5000))
        assert (len(window), window.total) == (100, 5000)
        assert indices(window.snapshot(30)) == list(range(4970, 5000))
        assert (window.snapshot(30).first_index, window.snapshot(30).total) == (4970, 5000)


def test_an_empty_window_has_empty_snapshots(spool):
    with make(spool) as window:
        snapshot = window.snapshot()
        assert (snapshot.x.shape, snapshot.labels.shape) == ((0, FEATURES), (0,))
        assert (len(window), window.total, snapshot.first_index) == (0, 0, 0)


def test_a_snapshot_is_a_copy(spool):
    with make(spool, holdout=0.0) as window:
        fill(window, 10)
        snapshot = window.snapshot()
        window.append(*rows(10, 300))
        assert indices(snapshot) == list(range(10))


def test_more_readings_at_once_than_fit(spool):
    with make(spool, holdout=0.0) as window:
        window.append(*rows(0, 3 * CHUNK + 5))
        assert indices(window.snapshot()) == list(range(3 * CHUNK - 95, 3 * CHUNK + 5))


@given(
    st.lists(st.integers(0, 300), max_size=20),
    st.integers(1, 150),
    st.floats(0, 0.9),
    st.integers(1, 20),
    st.none() | st.integers(0, 200),
)
def test_training_and_held_out_parts_are_the_window(batches, capacity, holdout, block, newest):
    window = Window(capacity, FEATURES, holdout=holdout, holdout_block=block, seed="s")
    for n in batches:
        window.append(*rows(window.total, n))
    training, heldout = indices(window.snapshot()), indices(window.heldout())
    total = sum(batches)
    assert sorted(training + heldout) == list(range(max(0, total - capacity), total))
    for index in heldout:
        digest = hashlib.sha256(f"s/{index // block}".encode()).digest()
        assert int.from_bytes(digest[:8], "big") / 2**64 < holdout
    if newest is not None:
        assert indices(window.snapshot(newest)) == training[max(0, len(training) - newest) :]
        assert indices(window.heldout(newest)) == heldout[max(0, len(heldout) - newest) :]


def test_about_the_asked_share_is_held_out_and_the_seed_decides_which():
    parts = []
    for seed in ("a", "a", "b"):
        window = Window(60_000, FEATURES, holdout=0.2, seed=seed)
        window.append(*rows(0, 60_000))
        parts.append(indices(window.heldout()))
    assert 0.17 < len(parts[0]) / 60_000 < 0.23
    assert parts[0] == parts[1] != parts[2]


def test_a_negative_label_is_unknown(spool):
    with make(spool, holdout=0.0) as window:
        window.append(np.ones((2, FEATURES), np.float32), np.array([-128, -7], np.int8))
        assert window.snapshot().labels.tolist() == [-1, -1]


@pytest.mark.parametrize("x", [np.zeros((2, 4), np.float32), np.zeros((1, 3), np.float32), np.zeros(3, np.float32)])
def test_arrays_that_do_not_fit(x):
    with pytest.raises(DataError, match=r"expected x \[2, 3\]"):
        Window(10, FEATURES).append(x, np.zeros(2, np.int8))


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"features": 0}, {"holdout": 1.0}, {"holdout_block": 0}])
def test_arguments_out_of_range(wrong):
    with pytest.raises(DataError, match="window"):
        Window(**{"capacity": 1, "features": 1, **wrong})


# ---- the spool -----------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node" / "window.spool"


def test_a_restart_keeps_the_window_and_the_count(path):
    with make(path) as window:
        fill(window, 1234)
        before = indices(window.snapshot()), indices(window.heldout())
    with make(path) as window:
        assert (indices(window.snapshot()), indices(window.heldout())) == before
        assert (window.total, window.set_aside) == (1234, "")
        fill(window, 1300)
    with make(path) as window:
        assert window.total == 1300


def test_the_file_does_not_grow(path):
    with make(path) as window:
        size = path.stat().st_size
        fill(window, 20_000, batch=500)
        window.flush()
        assert path.stat().st_size == size < 50_000


@pytest.mark.parametrize("capacity", [40, 100, 3000])
def test_another_capacity_keeps_what_fits(path, capacity):
    with make(path, holdout=0.0) as window:
        fill(window, 2500)
    with make(path, capacity, holdout=0.0) as window:
        kept = min(100, capacity)
        assert window.total == 2500
        if capacity <= 100:
            assert indices(window.snapshot()) == list(range(2500 - kept, 2500))
        fill(window, 2600)
        assert indices(window.snapshot())[-100:] == list(range(2600 - kept, 2600))[-100:]
    assert not path.with_name("window.spool.new").exists()


def test_a_second_process_is_refused(path):
    with make(path), pytest.raises(StateError, match="another process"):
        make(path)
    make(path).close()


def test_after_close_nothing_is_appended(path):
    window = make(path)
    fill(window, 5)
    window.close()
    window.close()
    with pytest.raises(StateError, match="after close"):
        window.append(*rows(5, 1))
    assert window.total == 5


def test_a_place_that_cannot_hold_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot use its spool"):
        make(tmp_path / "file" / "window.spool")


def test_no_space_is_an_error_at_the_start_and_not_a_crash_later(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StateError, match="No space left"):
        make(path)
    monkeypatch.undo()
    make(path).close()  # nothing half made is in the way, and the lock is free


def overwrite(path, at, data):
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "not a window's file"),
        (lambda path: path.write_bytes(b"x" * 9000), "not a window's file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes"),
        (lambda path: overwrite(path, 9, b"\x7f"), "header is damaged"),
        (lambda path: overwrite(path, 64, b"\xff" * 8), "total"),
        (lambda path: overwrite(path, 64, (10**9).to_bytes(8, "little")), "none of its 100 readings"),
        (lambda path: overwrite(path, HEADER, b"\0" * (path.stat().st_size - HEADER)), "none of its 100"),
    ],
    ids=["empty", "foreign", "shorter", "longer", "header", "total < 0", "total too large", "zeros"],
)  # fmt: skip
def test_a_damaged_file_is_set_aside_and_reported(path, caplog, damage, reason):
    with make(path) as window:
        fill(window, 500)
    damage(path)
    damaged = path.read_bytes()
    with make(path) as window:
        assert reason in window.set_aside
        assert window.total == 0
        fill(window, 10)
    assert "window.spool.corrupt" in caplog.text
    assert path.with_name("window.spool.corrupt").read_bytes() == damaged
    with make(path) as window:
        assert (window.total, window.set_aside) == (10, "")


def test_a_file_of_other_features_is_set_aside(path):
    with make(path, features=5) as window:
        window.append(np.zeros((4, 5), np.float32), np.zeros(4, np.int8))
    with make(path) as window:
        assert window.set_aside == "expected readings of 3 features. Received: 5"


def test_records_that_did_not_reach_the_disk_are_left_out_and_the_rest_stays(path, caplog):
    record = 8 + 4 * FEATURES
    with make(path, holdout=0.0) as window:
        fill(window, 50)
    overwrite(path, HEADER + 10 * record, b"\0" * record * 2)  # 10, 11: pages never written
    overwrite(path, HEADER + 20 * record + 9, b"\x55")  # 20: torn
    for _ in range(2):
        with make(path, holdout=0.0) as window:
            assert indices(window.snapshot()) == [i for i in range(50) if i not in (10, 11, 20)]
            assert (window.total, window.set_aside) == (50, "")
    assert "3 readings had not reached the disk" in caplog.text


def test_an_earlier_laps_record_does_not_pass_for_a_newer_one(path):
    slots = 100 + CHUNK
    record = 8 + 4 * FEATURES
    with make(path, holdout=0.0) as window:
        fill(window, 50)
        window.flush()
        old = path.read_bytes()[HEADER : HEADER + 50 * record]
        fill(window, slots + 50)
    overwrite(path, HEADER, old)
    with make(path, holdout=0.0) as window:
        assert indices(window.snapshot()) == list(range(slots - 50, slots))


APPEND_FOR_EVER = textwrap.dedent("""
    import sys, itertools
    from pathlib import Path
    import numpy as np
    from dl_mqtt_clients.data.window import Window
    window = Window(100, 3, spool=Path(sys.argv[1]), holdout=0.0)
    for n in itertools.cycle([1, 7, 500]):
        index = np.arange(window.total, window.total + n)
        x = np.repeat(index[:, None], 3, axis=1).astype(np.float32)
        window.append(x, (index % 100).astype(np.int8))
        if window.total > 5000:
            print(window.total, flush=True)
""")


def test_kill_9_at_any_moment_leaves_whole_readings(path):
    newest = 0
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", APPEND_FOR_EVER, path], stdout=subprocess.PIPE, text=True)
        said = [int(child.stdout.readline()) for _ in range(200)]
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=10)
        child.stdout.close()
        with make(path, holdout=0.0) as window:
            assert window.set_aside == ""
            assert window.total >= said[-1] > newest  # what was appended before the kill is there
            assert indices(window.snapshot()) == list(range(window.total - 100, window.total))
            newest = window.total


class KilledError(Exception):
    pass


class KilledHere:
    def __len__(self):
        return 100 + CHUNK

    def __setitem__(self, _slots, _values):
        raise KilledError


@pytest.mark.parametrize("column", ["_x", "_labels", "_checks"])
@pytest.mark.parametrize("already", [50, 5000])
def test_killed_between_any_two_stores_nothing_that_counted_is_touched(path, column, already):
    window = make(path, holdout=0.0)
    fill(window, already)
    setattr(window._ring, column, KilledHere())
    with pytest.raises(KilledError):
        window.append(*rows(already, CHUNK))
    window.close()  # only releases the lock: the map is what the file holds
    with make(path, holdout=0.0) as window:
        assert indices(window.snapshot()) == list(range(max(0, already - 100), already))


def test_snapshots_beside_a_writer_are_always_whole(spool):
    with make(spool, 1000, holdout=0.0) as window:
        done = threading.Event()

        def write():
            fill(window, 60_000, batch=100)
            done.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not done.is_set():
            found = indices(window.snapshot())
            assert found == list(range(found[0], found[0] + len(found))) if found else True
        writer.join(timeout=10)
        assert window.total == 60_000
