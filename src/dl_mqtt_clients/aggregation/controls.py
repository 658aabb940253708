"""SCAFFOLD's control of all nodes: c = (1/N) Σ c_i over all N nodes, those that never took part with c_i = 0.

Karimireddy et al., ICML 2020 (arXiv:1910.06378), Algorithm 1, lines 16 and 17: c ← c + (|S|/N) mean Δc_i. Departure:
the sum is kept, not c, and divided by the N of now: a fleet that grows or shrinks has the right mean again with its
next version. While N stays the same, it is the paper's c.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits

MOST_NODES: Final = 2**20  # whose changes one round can add exactly


@dataclass(frozen=True, slots=True)
class ControlChange:
    """A round's: `total` is Σ Δc_i over its updates, float64, one array a shared trainable; `nodes` is N ≥ 1."""

    total: list[np.ndarray]
    nodes: int


def summed(
    changes: Iterable[Sequence[np.ndarray]], shapes: Sequence[tuple[int, ...]], *, limit: float
) -> list[np.ndarray]:
    """Σ of Δc_i whose values are at most `limit`: the same bits in any order. RefusedError beyond `MOST_NODES`."""
    total = RunningSum(shapes, bits=scale_bits(max_abs=limit, max_weight=MOST_NODES))
    for change in changes:
        total.add(change, weight=1)
    return [mean * total.updates for mean in total.mean()]


def control_of_all(total: Sequence[np.ndarray], nodes: int) -> list[np.ndarray]:
    """c, float32."""
    return [np.asarray(part / nodes, np.float32) for part in total]
