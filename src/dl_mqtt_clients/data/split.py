"""Rows drawn into parts."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.errors import DataError

Index = npt.NDArray[np.integer[Any]]


def split_rows(n: int, shares: Sequence[float], *, seed: int = 0) -> list[Index]:
    """The rest, then one part for each share of n rows: disjoint, complete, each in the rows' own order."""
    if min(shares, default=0.0) < 0 or sum(shares) >= 1:
        raise DataError(f"split: expected shares ≥ 0 with a sum below 1. Received: {list(shares)}")
    ends = np.rint(n * np.cumsum(shares)).astype(int)  # rounded together: no more than n rows
    order = np.random.default_rng(seed).permutation(n)
    bounds = n - ends[-1] + np.concatenate([[0], ends[:-1]]) if len(ends) else []
    return [np.sort(part) for part in np.split(order, bounds)]


def spread_rows(n: int, at_most: int) -> Index:
    """At most that many of n rows, evenly spaced, so that they show all of it."""
    count = min(n, at_most)
    return np.arange(count) * n // max(count, 1)
