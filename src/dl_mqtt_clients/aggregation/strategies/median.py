"""Coordinate-wise median."""

from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.sorting import sorted_rows
from dl_mqtt_clients.aggregation.strategies.stack import Stack


@dataclass(frozen=True, slots=True)
class Median(Part):
    """Δ[j] = median of Δ_k[j] over the nodes; of an even number the mean of the middle two.

    Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018 (arXiv:1803.01498),
    Definition 1 and Algorithm 1. Every node counts the same: `examples` is its own word.
    """

    def reduce(self, stack: Stack) -> list[np.ndarray]:
        middle = ((len(stack) - 1) // 2, len(stack) // 2)

        def median(block: np.ndarray) -> np.ndarray:
            low, high = sorted_rows(block, middle)
            return np.asarray((low.astype(np.float64) + high) / 2)

        return stack.map(median)
