"""The running weighted sum of updates, in 64-bit fixed point.

Integers add exactly in any order, so the merged model is the same bit by bit whoever came first, whatever crashed;
memory is one model. A value w·x is stored as rint(w·x·2^bits); the range is checked, never wrapped.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from dl_mqtt_clients.errors import RefusedError

BLOCK: Final = 1 << 15  # values a pass: their float64 copies stay in the second-level cache
_LIMIT_BITS: Final = 62  # of a signed 64-bit sum, one spare
_ROUNDING: Final = 1.5 * 2.0**52  # a float64 near it has steps of 1: adding it rounds half to even, as rint does
_ROUNDING_BITS: Final = int(np.float64(_ROUNDING).view(np.int64))


def scale_bits(*, max_abs: float, max_weight: float) -> int:
    """Fraction bits that leave room for a sum of weights ≤ `max_weight` over values ≤ `max_abs`.

    About 2²⁴ steps a unit for |x| ≤ 100, 10⁶ examples, 2,000 nodes; at most 2⁵⁰.
    """
    needed = int(np.ceil(np.log2(max(max_abs, 1e-30) * max(max_weight, 1.0))))
    return int(np.clip(_LIMIT_BITS - needed, 0, 50))


class RunningSum:
    """Σ wₖ·xₖ over updates xₖ (lists of arrays of the same shapes). `a + b` is the sum of both parts, in any order."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], *, bits: int) -> None:
        self.bits = bits
        self.weight: int | Fraction = 0  # Σ wₖ, exact: examples, or what a strategy takes for them
        self.updates = 0
        self._sums = [np.zeros(shape, dtype=np.int64) for shape in shapes]
        self._headroom = 2.0**_LIMIT_BITS
        self._scaled = np.empty(BLOCK, dtype=np.float64)
        self._steps = np.empty(BLOCK, dtype=np.int64)

    def check(
        self,
        update: Sequence[np.ndarray],
        weight: float,
        *,
        scale: float = 1.0,
        reserved: float = 0.0,
        at_most: float | None = None,
    ) -> float:
        """Largest fixed-point value this update may add. RefusedError when the sum might leave its range.

        `reserved`: what was said so of updates that will be added before it. `at_most`: no |value| of the update is
        larger, and all are finite; else all are looked at.
        """
        if not (0 < weight < math.inf):
            raise RefusedError(f"weight: expected a finite number > 0. Received: {weight}")
        if [u.shape for u in update] != [s.shape for s in self._sums]:
            raise RefusedError("update has other shapes than the running sum")
        value = max((_largest(u) for u in update), default=0.0) if at_most is None else at_most
        largest = value * abs(self._factor(weight, scale))
        if not largest < self._headroom - reserved:
            raise RefusedError("update too large for the running sum")
        return largest

    def add(
        self, update: Sequence[np.ndarray], *, weight: float, scale: float = 1.0, largest: float | None = None
    ) -> None:
        """Add weight · scale · update, and `weight` to Σ wₖ: a scale (clipping) makes an update smaller, not rarer.

        RefusedError, and nothing added, when it would leave the range. `largest`: what `check` said of this update.
        """
        if largest is None or not largest < self._headroom:
            largest = self.check(update, weight, scale=scale)
        self._headroom -= largest
        for total, part in zip(self._sums, update, strict=True):
            self._add_blocks(total.reshape(-1), part.reshape(-1), self._factor(weight, scale), largest)
        self.weight += weight if isinstance(weight, int) else Fraction(weight)
        self.updates += 1

    def __add__(self, other: "RunningSum") -> "RunningSum":
        if self.bits != other.bits:
            raise ValueError(f"bits: expected {self.bits} as in this sum. Received: {other.bits}")
        shapes = [s.shape for s in self._sums]
        if shapes != [s.shape for s in other._sums]:
            raise ValueError("shapes: expected the same in both parts")
        result = RunningSum(shapes, bits=self.bits)
        result._sums = [a + b for a, b in zip(self._sums, other._sums, strict=True)]
        result._headroom = self._headroom + other._headroom - 2.0**_LIMIT_BITS
        if result._headroom < 0:
            raise RefusedError("the two parts together leave the range of the running sum")
        result.weight = self.weight + other.weight
        result.updates = self.updates + other.updates
        return result

    def mean(self) -> list[np.ndarray]:
        """Σ wₖ·xₖ / Σ wₖ, float64, one array a variable."""
        if self.weight <= 0:
            raise ValueError(f"weight: expected a positive sum of examples. Received: {self.weight}")
        divisor = float(self.weight) * 2.0**self.bits
        return [np.asarray(s / divisor) for s in self._sums]  # of one number numpy would make a scalar

    def _factor(self, weight: float, scale: float) -> float:
        return float(weight) * scale * 2.0**self.bits

    def _add_blocks(self, total: np.ndarray, part: np.ndarray, factor: float, largest: float) -> None:
        for start in range(0, part.size, BLOCK):
            piece = part[start : start + BLOCK]
            scaled, steps = self._scaled[: piece.size], self._steps[: piece.size]
            np.copyto(scaled, piece)  # first: a product in the piece's own float32 would round, in float16 overflow
            np.multiply(scaled, factor, out=scaled)
            if largest < 2.0**51:  # the cast below costs as much as all the rest on processors without AVX-512
                np.add(scaled, _ROUNDING, out=scaled)
                steps = scaled.view(np.int64)
                np.subtract(steps, _ROUNDING_BITS, out=steps)
            else:
                np.rint(scaled, out=scaled)
                np.copyto(steps, scaled, casting="unsafe")
            total[start : start + BLOCK] += steps


def _largest(part: np.ndarray) -> float:
    """Largest magnitude, infinite when there is a NaN; without a copy, and right for the smallest integer."""
    if not part.size:
        return 0.0
    largest = max(-float(part.min()), float(part.max()))
    return math.inf if math.isnan(largest) else largest
