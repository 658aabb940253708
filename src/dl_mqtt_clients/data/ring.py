"""Slots for the newest readings of a stream, in any memory that can be written: an array, or a mapped file.

The reading of absolute index i lies in slot i modulo the number of slots. There are `CHUNK` more slots than
readings that count, so what is being written never overlaps them; the total, one aligned 8-byte store, moves
afterwards: whoever looks at the memory at any moment, also after kill -9, sees whole readings only.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

CHUNK: Final = 1024  # readings appended at once, at most
LOST: Final = -128  # label of a reading that did not reach the disk
_SALT: Final = np.uint32(0x9E3779B9)  # a page of zeros must not pass for readings

Float32 = npt.NDArray[np.float32]
Int8 = npt.NDArray[np.int8]


def record_type(features: int) -> np.dtype[Any]:
    """One slot: check, label, 3 unused bytes, features; little-endian."""
    return np.dtype([("check", "<u4"), ("label", "i1"), ("unused", "V3"), ("x", "<f4", (features,))])


class Ring:
    """Readings in `slots`, `total[0]` counting those ever appended."""

    def __init__(self, slots: npt.NDArray[np.void], total: npt.NDArray[np.int64]) -> None:
        self._total = total
        self._x, self._labels, self._checks = slots["x"], slots["label"], slots["check"]
        features = self._x.shape[1]
        # Odd weights that differ by column: a changed or swapped value changes the sum.
        self._weights = (np.arange(1, features + 1, dtype=np.uint32) * np.uint32(2654435761)) | np.uint32(1)

    @classmethod
    def in_memory(cls, capacity: int, features: int) -> "Ring":
        return cls(np.zeros(capacity + CHUNK, record_type(features)), np.zeros(1, np.int64))

    @property
    def total(self) -> int:
        return int(self._total[0])

    def append(self, x: Float32, labels: Int8) -> None:
        """At most `CHUNK` readings: [n, features], [n]."""
        total = self.total
        x = np.ascontiguousarray(x, "<f4")
        labels = np.maximum(labels, np.int8(-1))
        checks = self._sums(x, labels, total)
        for here, slots in self._pieces(total, len(x)):
            self._x[slots], self._labels[slots], self._checks[slots] = x[here], labels[here], checks[here]
        self._total[0] = total + len(x)

    def copy(self, first: int, end: int) -> tuple[Float32, Int8]:
        """The readings first … end - 1, which must be among the newest that count."""
        x = np.empty((end - first, self._x.shape[1]), np.float32)
        labels = np.empty(end - first, np.int8)
        for here, slots in self._pieces(first, end - first):
            x[here], labels[here] = self._x[slots], self._labels[slots]
        return x, labels

    def intact(self, first: int, end: int) -> npt.NDArray[np.bool_]:
        """[end - first]: which of the readings pass their check."""
        intact = np.empty(end - first, np.bool_)
        for here, slots in self._pieces(first, end - first):
            sums = self._sums(self._x[slots], self._labels[slots], first + here.start)
            intact[here] = self._checks[slots] == sums
        return intact

    def mark_lost(self, first: int, lost: npt.NDArray[np.bool_]) -> None:
        """Label those of the readings from `first` on as `LOST`."""
        for here, slots in self._pieces(first, len(lost)):
            self._labels[slots][lost[here]] = LOST

    def _sums(self, x: Float32, labels: Int8, first: int) -> npt.NDArray[np.uint32]:
        """[n, features], [n] -> [n]: a check over content and index, so that an earlier lap's record fails too."""
        words = np.ascontiguousarray(x).view(np.uint32)
        index = np.arange(first, first + len(x), dtype=np.int64).astype(np.uint32)
        sums: npt.NDArray[np.uint32] = words @ self._weights
        return sums + (index ^ _SALT) * np.uint32(2246822519) + labels.view(np.uint8)

    def _pieces(self, first: int, n: int) -> list[tuple[slice, slice]]:
        """Where n readings from index `first` on lie: slices of them, and the slots of each."""
        start = first % len(self._x)
        before_end = min(n, len(self._x) - start)
        pieces = [(slice(0, before_end), slice(start, start + before_end))]
        if before_end < n:
            pieces.append((slice(before_end, n), slice(0, n - before_end)))
        return pieces
