"""The accepted updates of one round attempt, on disk.

    updates.bin      the updates' bytes, each in its own region, written as its chunks arrive
    accepted.jsonl   a line for each update that counts: node, sha256, offset, bytes, examples, loss, data times

An update counts when its line is durable, and the line is written after its bytes are: a crash between the two leaves
an unused region, never half an update. The running sum is rebuilt from here.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation.files import append_lines, sync_folder, whole_lines
from dl_mqtt_clients.aggregation.rounds import Accepted
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.wire.messages import Count, Positive
from dl_mqtt_clients.wire.transfer import FileSink

Time = Annotated[float, msgspec.Meta(ge=0.0, le=2.5e11)]  # seconds since 1970, before the year 9999
SMALL: Final = 1 << 20  # bytes: mapping costs more than copying so little


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    sha256: str
    offset: Count
    bytes: Positive
    examples: Positive
    loss: float | None = None
    staleness: int = 0
    steps: int = 1
    data_from: Time | None = None  # when the first reading of its window came, by the manager's clock
    data_to: Time | None = None  # when the last one came

    def accepted(self) -> Accepted:
        return Accepted(self.node, self.sha256, self.examples, self.loss, self.staleness, self.steps)


class Written(NamedTuple):
    """An update that is in its region, and right."""

    sink: FileSink
    size: int  # bytes
    accepted: Accepted
    data_from: float | None = None
    data_to: float | None = None


class Spool:
    """One folder a round attempt. StateError when its files are not what was made durable there."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._data = folder / "updates.bin"
        self._journal = folder / "accepted.jsonl"
        self.entries = [self._entry(line) for line in whole_lines(self._journal)]
        self._end = max((e.offset + e.bytes for e in self.entries), default=0)
        self._free: list[tuple[int, int]] = []  # regions given back by refused updates
        held = self._data.stat().st_size if self._data.exists() else 0
        if held < self._end:
            raise StateError(f"{self._data}: expected at least {self._end} bytes. Found: {held}")
        self._descriptor = os.open(self._data, os.O_RDWR | os.O_CREAT, 0o644)
        self._journal.touch()
        sync_folder(folder)
        sync_folder(folder.parent)

    def reserve(self, size: int) -> FileSink:
        """Room for one update of `size` bytes."""
        for place, (offset, room) in enumerate(self._free):
            if room == size:
                del self._free[place]
                return FileSink(self._descriptor, offset)
        offset, self._end = self._end, self._end + size
        return FileSink(self._descriptor, offset)

    def give_back(self, sink: FileSink, size: int) -> None:
        self._free.append((sink.start, size))

    def view(self, sink: FileSink, size: int) -> np.ndarray:
        """The bytes written to `sink`; memory-mapped unless they are few."""
        if size <= SMALL:
            return np.frombuffer(sink.read(0, size), dtype=np.uint8)
        return np.memmap(self._data, dtype=np.uint8, mode="r", offset=sink.start, shape=(size,))

    def accept(self, *updates: Written) -> None:
        """Make these updates durable; when this returns, they count. OSError, and none does, when the disk is full."""
        os.fdatasync(self._descriptor)
        entries = [_entry_of(update) for update in updates]
        append_lines(self._journal, [msgspec.json.encode(entry) for entry in entries])
        self.entries += entries

    def updates(self) -> Iterator[tuple[Entry, np.memmap]]:
        """Every counted update with its bytes, in order of acceptance."""
        for entry in self.entries:
            yield (
                entry,
                np.memmap(self._data, dtype=np.uint8, mode="r", offset=entry.offset, shape=(entry.bytes,)),
            )

    def on_disk(self, number: int, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The same arrays, written to a file of this folder and memory-mapped; it goes with the folder."""
        file = self.folder / f"dense-{number}.bin"
        file.write_bytes(b"".join(np.ascontiguousarray(array).data for array in arrays))
        mapped, offset = np.memmap(file, dtype=np.uint8, mode="r"), 0
        views = []
        for array in arrays:
            views.append(mapped[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape))
            offset += array.nbytes
        return views

    def close(self) -> None:
        os.close(self._descriptor)

    def _entry(self, line: bytes) -> Entry:
        try:
            return msgspec.json.decode(line, type=Entry)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise StateError(f"{self._journal}: a line cannot be read: {error}") from error


def _entry_of(update: Written) -> Entry:
    accepted = update.accepted
    return Entry(
        node=accepted.node,
        sha256=accepted.sha256,
        offset=update.sink.start,
        bytes=update.size,
        examples=accepted.examples,
        loss=accepted.loss,
        staleness=accepted.staleness,
        steps=accepted.steps,
        data_from=update.data_from,
        data_to=update.data_to,
    )
