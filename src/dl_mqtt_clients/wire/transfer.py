"""A blob in chunks: cut it, and put it together again from chunks in any order, once, without a second copy.

sender:   for k in range(blob.chunks): publish(topic(k), chunk(data, k, chunk_bytes))
receiver: reception.receive(k, payload) … reception.complete … reception.verify()
"""

import hashlib
import os
from itertools import islice
from typing import Final, Protocol

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.messages import Blob

MAX_CHUNKS: Final = 100_000  # of one blob: 26 GB at 256 KiB; a chunk costs the receiver 100 bytes of memory


def sha256(data: bytes | bytearray | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def describe(data: bytes | bytearray | memoryview, *, chunk_bytes: int) -> Blob:
    return Blob(sha256=sha256(data), bytes=len(data), chunk_bytes=chunk_bytes)


def chunk_count(total_bytes: int, chunk_bytes: int) -> int:
    return -(-total_bytes // chunk_bytes)


def chunk(data: bytes | bytearray | memoryview, index: int, chunk_bytes: int) -> memoryview:
    """Chunk `index` as a view."""
    return memoryview(data)[index * chunk_bytes : (index + 1) * chunk_bytes]


class Sink(Protocol):
    """Where a reception puts its bytes: memory (`MemorySink`) or a region of a file (`FileSink`)."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...
    def read(self, offset: int, size: int) -> bytes | memoryview: ...


class MemorySink:
    """One preallocated buffer."""

    def __init__(self, total_bytes: int) -> None:
        self.buffer = bytearray(total_bytes)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.buffer[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self.buffer)[offset : offset + size]


class FileSink:
    """A region of an open file, so that a hundred uploads need no memory."""

    def __init__(self, descriptor: int, start: int) -> None:
        self._descriptor = descriptor
        self.start = start

    def write(self, offset: int, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self.start + offset)
            view, offset = view[written:], offset + written

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, self.start + offset)


class Reception:
    """The chunks of one blob, arriving in any order, perhaps twice. TransferError when there are too many."""

    def __init__(self, blob: Blob, sink: Sink) -> None:
        self.blob = blob
        self._sink = sink
        self._chunks = chunk_count(blob.bytes, blob.chunk_bytes)
        if self._chunks > MAX_CHUNKS:
            raise TransferError(
                f"blob {blob.sha256[:12]}…: expected at most {MAX_CHUNKS} chunks. Announced: {self._chunks}"
            )
        self._missing = dict.fromkeys(range(self._chunks))
        self._hash = hashlib.sha256()
        self._hashed = 0  # bytes hashed so far, in order, while they are still in the cache

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(self._missing)

    @property
    def received(self) -> int:
        return self._chunks - len(self._missing)

    @property
    def complete(self) -> bool:
        return not self._missing

    def receive(self, index: int, payload: bytes | memoryview) -> bool:
        """Store chunk `index`; False when it was there already. TransferError when it cannot be ours."""
        if not 0 <= index < self._chunks:
            raise TransferError(f"chunk {index}: expected 0 … {self._chunks - 1}")
        offset = index * self.blob.chunk_bytes
        expected = min(self.blob.chunk_bytes, self.blob.bytes - offset)
        if len(payload) != expected:
            raise TransferError(f"chunk {index}: expected {expected} bytes. Received: {len(payload)}")
        if index not in self._missing:
            return False
        self._sink.write(offset, payload)
        del self._missing[index]
        if offset == self._hashed:
            self._hash.update(payload)
            self._hashed += expected
        return True

    def verify(self) -> None:
        """TransferError unless all is here and has the announced hash."""
        if not self.complete:
            raise TransferError(
                f"blob {self.blob.sha256[:12]}…: {len(self._missing)} of {self._chunks} chunks are missing"
            )
        while self._hashed < self.blob.bytes:
            size = min(self.blob.chunk_bytes, self.blob.bytes - self._hashed)
            self._hash.update(self._sink.read(self._hashed, size))
            self._hashed += size
        if self._hash.hexdigest() != self.blob.sha256:
            raise TransferError(f"blob {self.blob.sha256[:12]}…: its content has another hash")


class Download:
    """Fetches one blob by exact topics, at most `at_once` subscribed at a time; `asked` are the open ones."""

    def __init__(self, blob: Blob, *, limit_bytes: int, at_once: int = 16) -> None:
        if blob.bytes > limit_bytes:
            raise TransferError(
                f"blob {blob.sha256[:12]}…: expected at most {limit_bytes} bytes. Announced: {blob.bytes}"
            )
        self._sink = MemorySink(blob.bytes)
        self.reception = Reception(blob, self._sink)
        self.asked: set[int] = set()
        self._at_once = at_once

    def to_ask(self) -> list[int]:
        """Chunks to subscribe to now; they count as asked."""
        room = max(self._at_once - len(self.asked), 0)
        new = list(islice((k for k in self.reception.missing if k not in self.asked), room))
        self.asked.update(new)
        return new

    def receive(self, index: int, payload: bytes | memoryview) -> bool:
        new = self.reception.receive(index, payload)
        self.asked.discard(index)
        return new

    def result(self) -> bytearray:
        """The verified content. TransferError when the hash differs."""
        self.reception.verify()
        return self._sink.buffer
