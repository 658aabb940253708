"""Coordinate-wise trimmed mean."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import Range
from dl_mqtt_clients.aggregation.strategies.sorting import sorted_rows
from dl_mqtt_clients.aggregation.strategies.stack import Stack


@dataclass(frozen=True, slots=True)
class TrimmedMean(Part):
    """Δ[j] = mean of Δ_k[j] without the βn largest and the βn smallest.

    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018 (arXiv:1803.01498),
    Definition 2 and Algorithm 1. Departure: the paper takes βn to be whole; here it is rounded up, so that a small
    fleet is protected too, but never past the median.
    """

    share: Annotated[float, Range(least=0, below=0.5)]  # β, at each end

    def trimmed(self, n: int) -> int:
        """How many are left out at each end."""
        return min(math.ceil(self.share * n - 1e-9), (n - 1) // 2)  # 0.07 · 100 is a little more than 7

    def reduce(self, stack: Stack) -> list[np.ndarray]:
        trimmed = self.trimmed(len(stack))
        kept = range(trimmed, len(stack) - trimmed)

        def mean(block: np.ndarray) -> np.ndarray:
            total = np.zeros(block.shape[1])
            for row in sorted_rows(block, kept):
                total += row
            return total / len(kept)

        return stack.map(mean)
