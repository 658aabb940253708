"""The newest readings of a stream, for training: a ring buffer that survives a restart.

Readings have an absolute index: 0 for the first ever appended. Blocks of `holdout_block` consecutive indices are
held out when SHA-256(seed, block) says so; they serve evaluation and are never trained on (blocks, not single
readings, since neighbours in time resemble each other).
"""

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.data.ring import CHUNK, LOST, Ring
from dl_mqtt_clients.data.spool import Spool
from dl_mqtt_clients.errors import DataError, StateError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of part of a window, oldest first."""

    x: npt.NDArray[np.float32]  # [n, features]
    labels: npt.NDArray[np.int8]  # [n]: -1 unknown, 0 normal, 1 … anomalous or class
    first_index: int  # absolute index of the first row; `total` when there is none
    total: int  # readings appended until then

    def __len__(self) -> int:
        return len(self.x)


class Window:
    """At most `capacity` readings, the oldest dropped first. One thread appends, any thread takes snapshots."""

    def __init__(
        self,
        capacity: int,
        features: int,
        *,
        spool: Path | None = None,
        holdout: float = 0.1,
        holdout_block: int = 64,
        seed: str = "",
    ) -> None:
        """`spool`: a file of fixed size that keeps the window over a restart; one process at a time.

        DataError for arguments out of range; StateError when the file cannot be made or another process has it.
        A spool that is not ours, damaged, or of other features is renamed `<name>.corrupt` and `set_aside` says why.
        """
        if capacity < 1 or features < 1 or holdout_block < 1 or not 0.0 <= holdout < 1.0:
            raise DataError(
                "window: expected capacity, features, holdout_block ≥ 1 and 0 ≤ holdout < 1. "
                f"Received: {capacity}, {features}, {holdout_block}, {holdout}"
            )
        self.capacity = capacity
        self.features = features
        self._holdout, self._block, self._seed = holdout, holdout_block, seed
        self._lock = threading.Lock()
        self._closed = False
        self._spool = Spool(spool, capacity=capacity, features=features) if spool else None
        self._ring = self._spool.ring if self._spool else Ring.in_memory(capacity, features)

    @property
    def set_aside(self) -> str:
        """Why an earlier spool could not be used; empty when none was refused."""
        return self._spool.set_aside if self._spool else ""

    @property
    def total(self) -> int:
        """Readings ever appended, restarts included."""
        return self._ring.total

    def __len__(self) -> int:
        return min(self.total, self.capacity)

    def append(self, x: npt.NDArray[np.float32], labels: npt.NDArray[np.int8]) -> None:
        """[n, features] and [n]. DataError when the shapes do not fit, StateError after `close`."""
        if x.shape != (len(labels), self.features):
            raise DataError(f"window: expected x [{len(labels)}, {self.features}]. Received: {list(x.shape)}")
        for start in range(0, len(x), CHUNK):
            with self._lock:
                if self._closed:
                    raise StateError("window: expected an open one. Received: readings after close()")
                self._ring.append(x[start : start + CHUNK], labels[start : start + CHUNK])

    def snapshot(self, newest: int | None = None) -> Snapshot:
        """The newest readings to train on (at most `newest`), held-out blocks excluded."""
        return self._select(newest, heldout=False)

    def heldout(self, newest: int | None = None) -> Snapshot:
        """The newest held-out readings (at most `newest`)."""
        return self._select(newest, heldout=True)

    def flush(self) -> None:
        """Wait until the disk has everything appended so far; needed against power loss, not against kill -9."""
        if self._spool:
            self._spool.flush()

    def close(self) -> None:
        """Flush and release the spool; nothing can be appended any more. A second call does nothing."""
        with self._lock:
            self._closed = True
            if self._spool:
                self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, newest: int | None, *, heldout: bool) -> Snapshot:
        with self._lock:  # held for the copy only: a millisecond for 10,000 readings of 38 features
            total = self._ring.total
            first = max(0, total - self.capacity)
            x, labels = self._ring.copy(first, total)
        chosen = np.flatnonzero((self._is_heldout(first, total) == heldout) & (labels != LOST))
        if newest is not None:
            chosen = chosen[max(0, len(chosen) - newest) :]
        first_index = first + int(chosen[0]) if len(chosen) else total
        return Snapshot(x[chosen], labels[chosen], first_index, total)

    def _is_heldout(self, first: int, total: int) -> npt.NDArray[np.bool_]:
        """[total - first]: which of the readings first … total - 1 are held out."""
        first_block = first // self._block
        blocks = range(first_block, -(-total // self._block))
        heldout = np.fromiter((self._block_is_heldout(block) for block in blocks), np.bool_, len(blocks))
        start = first - first_block * self._block
        return np.repeat(heldout, self._block)[start : start + total - first]

    def _block_is_heldout(self, block: int) -> bool:
        digest = hashlib.sha256(f"{self._seed}/{block}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self._holdout * 2**64
