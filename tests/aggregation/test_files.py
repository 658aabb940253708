"""Durable files: whole or as before, whatever fails and whenever."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation import files
from dl_mqtt_clients.aggregation.files import (
    append_lines,
    only_one,
    read_json,
    whole_lines,
    write_atomically,
    write_json,
)
from dl_mqtt_clients.errors import StateError

lines = st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), max_size=6)


def disk_full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


# ---- whole files ----


def test_a_file_is_written_with_its_folders_and_leaves_nothing_else(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["file"]


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
def test_anything_that_is_bytes_can_be_written(tmp_path, data):
    write_atomically(tmp_path / "file", data)
    assert (tmp_path / "file").read_bytes() == b"bytes"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failing):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), disk_full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_disk_before_the_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor):
        steps.append("folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "content")
        fsync(descriptor)

    def note_replace(self, target):
        steps.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomically(tmp_path / "file", b"content")
    assert steps == ["content", "name", "folder"]


def test_what_a_killed_process_left_does_not_matter(tmp_path):
    (tmp_path / f".file.{os.getpid()}.part").write_bytes(b"half of someth")
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


# ---- JSON ----


def test_json_comes_back_and_is_readable(tmp_path):
    write_json(tmp_path / "x.json", {"b": [1, None], "a": "ä"})
    assert read_json(tmp_path / "x.json") == {"a": "ä", "b": [1, None]}
    assert (tmp_path / "x.json").read_text().startswith('{\n "a"')


def test_a_file_that_is_not_there_is_none(tmp_path):
    assert read_json(tmp_path / "x.json") is None


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"{}{}", b"[" * 100_000, b"9" * 5000])
def test_corrupt_json_is_a_state_error_that_names_the_file(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(StateError, match=r"x\.json: cannot be read"):
        read_json(tmp_path / "x.json")


def test_a_folder_in_the_place_of_a_file_is_a_state_error(tmp_path):
    with pytest.raises(StateError, match="cannot be read"):
        read_json(tmp_path)


# ---- journals ----


def test_a_journal_that_is_not_there_has_no_lines(tmp_path):
    assert list(whole_lines(tmp_path / "journal")) == []


@given(lines)
def test_every_line_comes_back(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("journal") / "journal"
    for line in written:
        append_lines(path, [line])
    assert list(whole_lines(path)) == written


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines_and_takes_the_next(tmp_path):
    path = tmp_path / "journal"
    for line in (b"first", b"", b"third\r\x00\x85", b"last"):
        append_lines(path, [line])
    content = path.read_bytes()
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        whole = content[:cut].split(b"\n")[:-1]
        assert list(whole_lines(path)) == whole
        append_lines(path, [b"next"])
        assert list(whole_lines(path)) == [*whole, b"next"]


@pytest.mark.parametrize("torn", [1, 65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("before", [b"", b"whole\n"])
def test_a_torn_line_of_any_length_is_cut_off(tmp_path, torn, before):
    path = tmp_path / "journal"
    path.write_bytes(before + b"x" * torn)
    append_lines(path, [b"next"])
    assert path.read_bytes() == before + b"next\n"


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_line_that_could_not_be_made_durable_is_not_there(tmp_path, monkeypatch, call):
    path = tmp_path / "journal"
    append_lines(path, [b"first"])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, disk_full)
        with pytest.raises(OSError, match="No space"):
            append_lines(path, [b"second"])
    assert path.read_bytes() == b"first\n"
    append_lines(path, [b"third"])
    assert list(whole_lines(path)) == [b"first", b"third"]


def test_a_disk_that_fills_up_in_the_middle_of_a_line_leaves_none_of_it(tmp_path, monkeypatch):
    path = tmp_path / "journal"
    append_lines(path, [b"first"])
    pwrite, calls = os.pwrite, []

    def half(descriptor, data, offset):
        calls.append(len(data))
        return pwrite(descriptor, data[: len(data) // 2], offset) if len(calls) < 3 else disk_full()

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(OSError, match="No space"):
        append_lines(path, [b"a longer second line"])
    assert path.read_bytes() == b"first\n"


def test_a_write_in_parts_is_one_line(tmp_path, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda d, data, offset: pwrite(d, data[:3], offset))
    append_lines(tmp_path / "journal", [b"a line in many parts"])
    assert (tmp_path / "journal").read_bytes() == b"a line in many parts\n"


# ---- the lock ----

HOLD = """
import pathlib, sys
from dl_mqtt_clients.aggregation.files import only_one
with only_one(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_gone_even_by_a_kill(tmp_path, holder):
    with pytest.raises(StateError, match="another process works in this folder"), only_one(tmp_path):
        pass
    holder.kill()
    holder.wait(timeout=10)
    with only_one(tmp_path):
        pass


def test_a_second_manager_in_the_same_process_is_refused_too(tmp_path):
    with only_one(tmp_path / "new"), pytest.raises(StateError, match="another process"), only_one(tmp_path / "new"):
        pass
    with only_one(tmp_path / "new"):
        pass


def test_an_error_inside_gives_the_folder_free(tmp_path):
    with pytest.raises(RuntimeError), only_one(tmp_path):
        raise RuntimeError
    with only_one(tmp_path):
        pass


def test_folders_are_made_durable(tmp_path):
    files.sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        files.sync_folder(tmp_path / "missing")
