"""A ring of readings in a memory-mapped file of fixed size, which outlives its process.

The file: a header of 4,096 bytes (magic, features, capacity, CRC-32 of these; from byte 64 the total), then the
slots. *Killed at any moment:* what the process stored, the kernel still has, and `ring.py` says why it is whole.
*Power loss:* pages reach the disk in any order, so at opening every record is checked; what fails is lost, the
rest is kept; if all fails, the file is set aside.
"""

import fcntl
import logging
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np

from dl_mqtt_clients.data.ring import CHUNK, Ring, record_type
from dl_mqtt_clients.errors import StateError

_HEADER_BYTES: Final = 4096
_TOTAL_AT: Final = 64
_FIELDS: Final = struct.Struct("<8sII")
_MAGIC: Final = b"FLWINDW1"

_log = logging.getLogger(__name__)


class _UnusableError(Exception):
    """Why a file is set aside."""


class Spool:
    """The file at `path`, made if absent. StateError when that fails or another process holds it."""

    def __init__(self, path: Path, *, capacity: int, features: int) -> None:
        self.path = path
        self.set_aside = ""  # why the file found there could not be used
        self.lost = 0  # readings that had not reached the disk
        self._capacity, self._features = capacity, features
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
            try:
                self._map, self.ring = self._open()
            except BaseException:
                os.close(self._lock)
                raise
        except OSError as error:
            raise StateError(f"window: cannot use its spool {path}: {error.strerror}") from error

    def flush(self) -> None:
        self._map.flush()

    def close(self) -> None:
        if self._lock >= 0:
            self._map.flush()
            os.close(self._lock)
            self._lock = -1

    def _take_lock(self) -> int:
        """Held until `close` or the process's end; a file of its own, since the spool may be replaced."""
        lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StateError(f"window: another process uses the spool {self.path}") from None
        return lock

    def _open(self) -> tuple[mmap.mmap, Ring]:
        if not self.path.exists():
            return self._create(None)
        try:
            capacity, mapped, ring = self._read()
        except _UnusableError as reason:
            self.set_aside = str(reason)
            kept = self.path.with_name(self.path.name + ".corrupt")
            self.path.replace(kept)
            _log.warning("window: spool %s: %s; kept as %s", self.path, reason, kept.name)
            return self._create(None)
        if capacity == self._capacity:
            return mapped, ring
        return self._create(ring, min(ring.total, capacity))

    def _read(self) -> tuple[int, mmap.mmap, Ring]:
        """The file's capacity and what is in it. _UnusableError when it is not a window of ours."""
        size = self.path.stat().st_size
        with self.path.open("r+b") as file:
            header = file.read(_TOTAL_AT + 8)
            capacity = self._capacity_in(header, size)
            mapped = mmap.mmap(file.fileno(), size)
        ring = _ring_in(mapped, self._features)
        if not 0 <= ring.total < 2**62:
            raise _UnusableError(f"expected a total ≥ 0. Received: {ring.total}")
        first = max(0, ring.total - capacity)
        lost = ~ring.intact(first, ring.total)
        self.lost = int(lost.sum())
        if self.lost and lost.all():
            raise _UnusableError(f"none of its {self.lost} readings passes its check")
        if self.lost:
            ring.mark_lost(first, lost)
            _log.warning("window: spool %s: %d readings had not reached the disk", self.path, self.lost)
        return capacity, mapped, ring

    def _capacity_in(self, header: bytes, size: int) -> int:
        if len(header) < _TOTAL_AT + 8 or header[: len(_MAGIC)] != _MAGIC:
            raise _UnusableError("not a window's file")
        fields = header[: _FIELDS.size]
        _, features, capacity = _FIELDS.unpack(fields)
        if zlib.crc32(fields) != int.from_bytes(header[_FIELDS.size : _FIELDS.size + 4], "little"):
            raise _UnusableError("its header is damaged")
        if features != self._features:
            raise _UnusableError(f"expected readings of {self._features} features. Received: {features}")
        if size != _file_bytes(capacity, features):
            raise _UnusableError(f"expected {_file_bytes(capacity, features)} bytes. Received: {size}")
        return int(capacity)

    def _create(self, old: Ring | None, keep: int = 0) -> tuple[mmap.mmap, Ring]:
        """A new file, with the newest readings of `old`, in place of what is there: whole or not at all."""
        draft = self.path.with_name(self.path.name + ".new")
        fields = _FIELDS.pack(_MAGIC, self._features, self._capacity)
        total, keep = (old.total if old else 0), min(keep, self._capacity)
        with draft.open("w+b") as file:
            # Space is taken now: on a full disk a later store into the map would kill the process.
            os.posix_fallocate(file.fileno(), 0, _file_bytes(self._capacity, self._features))
            file.write((fields + zlib.crc32(fields).to_bytes(4, "little")).ljust(_TOTAL_AT, b"\0"))
            file.write((total - keep).to_bytes(8, "little"))
            file.flush()
            mapped = mmap.mmap(file.fileno(), 0)
            ring = _ring_in(mapped, self._features)
            for start in range(total - keep, total, CHUNK):
                ring.append(*old.copy(start, min(start + CHUNK, total)))  # type: ignore[union-attr]
            mapped.flush()
            os.fsync(file.fileno())
        draft.replace(self.path)
        return mapped, ring


def _file_bytes(capacity: int, features: int) -> int:
    return _HEADER_BYTES + (capacity + CHUNK) * record_type(features).itemsize


def _ring_in(mapped: mmap.mmap, features: int) -> Ring:
    slots = np.frombuffer(mapped, record_type(features), offset=_HEADER_BYTES)
    return Ring(slots, np.frombuffer(mapped, "<i8", count=1, offset=_TOTAL_AT))
