"""The global L2 norm of an update, the same bits on every machine and for every memory layout."""

import math
from collections.abc import Sequence

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import BLOCK


def is_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether no value is NaN or infinite; without a copy."""
    return all(math.isfinite(float(a.min())) and math.isfinite(float(a.max())) for a in arrays if a.size)


def global_norm(arrays: Sequence[np.ndarray]) -> float:
    """√Σ x² over all arrays, accumulated in float64; NaN or infinite when a value is.

    No BLAS: its dot product depends on the number of threads.
    """
    squares = np.empty(BLOCK, dtype=np.float64)
    sums = []
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, BLOCK):
            piece = flat[start : start + BLOCK]
            square = squares[: piece.size]
            np.copyto(square, piece)
            np.multiply(square, square, out=square)
            sums.append(float(np.add.reduce(square)))
    total = math.fsum(sums) if all(map(math.isfinite, sums)) else sum(sums)
    return math.sqrt(total)
