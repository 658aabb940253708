"""The global L2 norm of an update, the same bits on every machine and for every memory layout."""

import math
from collections.abc import Sequence

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import BLOCK


def is_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether no value is NaN or infinite; without a copy."""
    return all(math.isfinite(float(a.min())) and math.isfinite(float(a.max())) for a in arrays if a.size)


def global_norm(arrays: Sequence[np.ndarray]) -> float:
    """√Σ x² over all arrays, right to 1e-7; NaN or infinite when a value is.

    No BLAS: its dot product depends on the number of threads. Whole blocks of float32 are squared and added eight at a
    time as they are, then in float64: half the time, and the order of additions is fixed.
    """
    with np.errstate(over="ignore"):
        return math.sqrt(sum(_squares(array.reshape(-1)) for array in arrays))


def _squares(flat: np.ndarray) -> float:
    """Σ x²."""
    whole = flat.size // BLOCK * BLOCK if flat.dtype == np.float32 else 0
    narrow = _narrow(flat[:whole])
    if not math.isfinite(narrow):  # a square above 3e38 does not fit float32
        whole, narrow = 0, 0.0
    return narrow + sum(_wide(flat[start : start + BLOCK]) for start in range(whole, flat.size, BLOCK))


def _narrow(flat: np.ndarray) -> float:
    """Of whole blocks of float32; not finite when a square is out of range."""
    square, total = np.empty(BLOCK, dtype=np.float32), np.zeros(BLOCK // 8)
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        np.multiply(block, block, out=square)
        total += np.add.reduce(square.reshape(8, -1), axis=0)
    return float(np.add.reduce(total))


def _wide(piece: np.ndarray) -> float:
    square = piece.astype(np.float64)
    np.multiply(square, square, out=square)
    return float(np.add.reduce(square))
