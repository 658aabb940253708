"""Durable writes: after `write_atomically` returns, the file survives a power cut, whole or as it was before."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from dl_mqtt_clients.errors import StateError


def write_atomically(path: Path, data: bytes | bytearray | memoryview) -> None:
    """Write, fsync, rename, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _replacement(path) as file:
        file.write(data)


def keep_newest(path: Path, size: int) -> None:
    """Cut a file of lines down to its last whole ones, at most `size` bytes, all or nothing."""
    with path.open("rb") as old, _replacement(path) as file:
        end = old.seek(0, os.SEEK_END)
        if end > size:
            old.seek(end - size - 1)
            old.readline()
        else:
            old.seek(0)
        shutil.copyfileobj(old, file, 1 << 20)


@contextmanager
def _replacement(path: Path) -> Iterator[BinaryIO]:
    """A file to write that then takes the place of `path`, durably."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """Parsed JSON, or None when the file does not exist. StateError when it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, OSError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from error


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def append_lines(path: Path, lines: Sequence[bytes]) -> None:
    """Append whole lines and make them durable, or leave the file as it was (OSError, when the disk is full)."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        end = _end_of_whole_lines(descriptor)
        try:
            _write_all(descriptor, b"".join(line + b"\n" for line in lines), end)
            os.fdatasync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)  # half a line would spoil the next one
            raise
    finally:
        os.close(descriptor)
    if end == 0:
        sync_folder(path.parent)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _end_of_whole_lines(descriptor: int) -> int:
    """Where the next line belongs; a torn last line (a crash while appending) is cut off."""
    size = os.fstat(descriptor).st_size
    end = size
    while end and os.pread(descriptor, 1, end - 1) != b"\n":
        block = min(end, 1 << 16)
        end -= block
        end += os.pread(descriptor, block, end).rfind(b"\n") + 1
    if end < size:
        os.ftruncate(descriptor, end)
    return end


def whole_lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file; a torn last one (a crash while appending) is cut off by the next append."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process. StateError when another process holds it."""
    import fcntl  # noqa: PLC0415  (not on every platform)

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StateError(f"{folder}: another process works in this folder") from error
        yield
