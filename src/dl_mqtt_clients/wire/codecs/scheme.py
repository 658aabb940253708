"""What a codec does with one large float32 tensor; everything around it (files, checks, small tensors) is `Codec`'s."""

import math
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

import numpy as np

BLOCK: Final = 1 << 16  # values a pass: a block and its temporaries stay in the second-level cache
LARGEST: Final = 2.0**126  # magnitude an encoder takes; what it makes of it stays finite in every scheme

Parts = Mapping[str, np.ndarray]  # by suffix: "" is the tensor itself, ".scale", ".index"


class Scheme(Protocol):
    """How one tensor of n values is written into parts whose dtypes and shapes follow from its shape alone."""

    @property
    def name(self) -> str: ...

    @property
    def is_sparse(self) -> bool:
        """Whether most values are left out: then whole weights cannot travel so, and what is left out is a residual."""

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Suffix -> (safetensors dtype, shape)."""

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:
        """float32 [n], |x| ≤ `largest` ≤ 2¹²⁶ -> `parts`. Rounds to nearest without a seed (seed, position)."""

    def read(self, parts: Parts, out: np.ndarray) -> None:
        """`parts`, from anyone -> float32 [n], zeros before. ValueError says what cannot be."""

    def error_bound(self, x: np.ndarray) -> float:
        """Largest |read - x| of a value, whatever the seed; float32 [n], n > 0."""


def blocks(size: int, step: int = BLOCK) -> Iterator[slice]:
    return (slice(start, min(start + step, size)) for start in range(0, size, step))


def largest(x: np.ndarray) -> float:
    """Largest magnitude in a flat array, 0 when it is empty, infinite when there is a NaN; without a copy."""
    found = 0.0
    for block in blocks(x.size):
        low, high = float(x[block].min()), float(x[block].max())
        if math.isnan(low) or math.isnan(high):
            return math.inf
        found = max(found, -low, high)
    return found
