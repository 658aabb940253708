"""Sorting a few rows coordinate by coordinate, with compare-and-exchange of whole rows.

For ten nodes this is some ten times faster than sorting each column: every step is one vector instruction.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np

MAX_NETWORK: Final = 64  # rows beyond which sorting column by column is faster (measured)


def sorted_rows(block: np.ndarray, wanted: Iterable[int]) -> list[np.ndarray]:
    """[n, width] -> the rows `wanted` (0 smallest, n - 1 largest), each [width]. `block` is scratch afterwards."""
    places = tuple(wanted)
    if len(block) > MAX_NETWORK:
        ordered = np.sort(np.ascontiguousarray(block.T), axis=1).T
        return [ordered[place] for place in places]
    rows, spare = list(block), np.empty_like(block[0])
    for low, high in network(len(block), places):
        np.minimum(rows[low], rows[high], out=spare)
        np.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    return [rows[place] for place in places]


@lru_cache(maxsize=64)
def network(n: int, wanted: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Comparators (low, high) that put the `wanted` places of n rows right.

    Batcher's merge exchange: Knuth, The Art of Computer Programming 3, 5.2.2, Algorithm M; those that no wanted place
    depends on are left out.
    """
    needed, kept = set(wanted), []
    for low, high in reversed(_merge_exchange(n)):
        if low in needed or high in needed:
            needed |= {low, high}
            kept.append((low, high))
    return tuple(reversed(kept))


def _merge_exchange(n: int) -> list[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    top = 1 << max((n - 1).bit_length() - 1, 0)
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            if q == p:
                break
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return pairs
