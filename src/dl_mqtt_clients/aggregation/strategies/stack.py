"""All updates of a round, seen a block of columns at a time: never n models in memory."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from dl_mqtt_clients.aggregation.mapped import give_back, mappings
from dl_mqtt_clients.aggregation.strategies.parts import Facts

BLOCK_VALUES: Final = 1 << 17  # of all rows together: 512 KiB of float32 stay in the second-level cache
MIN_WIDTH: Final = 256
RELEASE_VALUES: Final = 1 << 22  # read from mapped files before their pages are given back: 16 MiB of float32


class Stack:
    """n updates, one a row, in order of node; `rows[k]` are the trainables of update k, `scales[k]` multiplies them."""

    def __init__(
        self, facts: Sequence[Facts], rows: Sequence[Sequence[np.ndarray]], scales: Sequence[float] | None = None
    ) -> None:
        self.facts = tuple(facts)
        self.rows = tuple(rows)
        self.scales = (1.0,) * len(self.rows) if scales is None else tuple(scales)
        self._flat = [[array.reshape(-1) for array in row] for row in self.rows]
        self._shapes = [array.shape for array in self.rows[0]]
        wide = any(np.result_type(array, np.float32) != np.float32 for row in self._flat for array in row)
        self._dtype = np.float64 if wide else np.float32

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, rows: Sequence[int]) -> "Stack":
        """The updates at these places alone."""
        return Stack([self.facts[k] for k in rows], [self.rows[k] for k in rows], [self.scales[k] for k in rows])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        """One array a trainable, float64, from `function`: [n, width] -> [width], coordinate by coordinate.

        The block is scratch: `function` may write to it.
        """
        results = [np.empty(math.prod(shape), dtype=np.float64) for shape in self._shapes]
        for position, columns, block in self._blocks():
            results[position][columns] = function(block)
        return [result.reshape(shape) for result, shape in zip(results, self._shapes, strict=True)]

    def mean(self) -> list[np.ndarray]:
        """The plain mean of the rows."""
        return self.map(lambda block: np.asarray(np.mean(block, axis=0, dtype=np.float64)))

    def distances(self) -> np.ndarray:
        """Squared Euclidean distances, [n, n] float64, ≥ 0: from the Gram matrix, added up block by block."""
        gram = np.zeros((len(self), len(self)))
        for _, _, block in self._blocks():
            wide = block.astype(np.float64, copy=False)
            gram += wide @ wide.T
        squares = np.diag(gram)
        distances = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
        np.fill_diagonal(distances, 0.0)
        return distances

    def _blocks(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        width = max(BLOCK_VALUES // len(self), MIN_WIDTH)
        space = np.empty((len(self), width), dtype=self._dtype)
        mapped, read = mappings(array for row in self._flat for array in row), 0
        for position, shape in enumerate(self._shapes):
            size = math.prod(shape)
            for start in range(0, size, width):
                columns = slice(start, min(start + width, size))
                block = space[:, : columns.stop - start]
                for row, scale, into in zip(self._flat, self.scales, block, strict=True):
                    if scale == 1.0:
                        np.copyto(into, row[position][columns])
                    else:
                        np.multiply(row[position][columns], scale, out=into)
                read += block.size
                if read >= RELEASE_VALUES:
                    give_back(mapped)
                    read = 0
                yield position, columns, block
        give_back(mapped)
