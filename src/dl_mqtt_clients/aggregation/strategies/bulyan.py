"""Bulyan."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.krum import enough, scores
from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import Attackers
from dl_mqtt_clients.aggregation.strategies.sorting import sorted_rows
from dl_mqtt_clients.aggregation.strategies.stack import Stack


@dataclass(frozen=True, slots=True)
class Bulyan(Part):
    """θ = n - 2f updates, chosen one after the other by Krum; Δ[j] = mean of the θ - 2f nearest to their median.

    El Mhamdi, Guerraoui, Rouault, The Hidden Vulnerability of Distributed Learning in Byzantium, ICML 2018
    (arXiv:1802.07927), section 4, with Krum inside; n ≥ 4f + 3. Departures: in the last choices, with 2f + 2 or fewer
    left, where Krum's own condition fails, it looks at one nearest other at least; of two equally near values the
    smaller is taken.
    """

    f: Attackers

    @property
    def min_updates(self) -> int:
        return 4 * self.f + 3

    def reduce(self, stack: Stack) -> list[np.ndarray]:
        enough(self, len(stack), self.min_updates)
        chosen = stack.only(self.selected(stack.distances()))
        kept = len(chosen) - 2 * self.f
        return chosen.map(lambda block: mean_around_median(block, kept))

    def selected(self, distances: np.ndarray) -> list[int]:
        """Places of the θ chosen ones, in order of place."""
        left, chosen = list(range(len(distances))), list[int]()
        while len(left) > 2 * self.f:
            chosen += [left.pop(int(np.argmin(scores(distances, self.f, left))))]
        return sorted(chosen)


def mean_around_median(block: np.ndarray, kept: int) -> np.ndarray:
    """[θ, width] -> [width]: the `kept` values nearest to the median are neighbours once sorted.

    The window moves up as long as the value it leaves below is farther from the median than the one it takes in above.
    """
    n = len(block)
    rows = [row.astype(np.float64) for row in sorted_rows(block, range(n))]
    median = (rows[(n - 1) // 2] + rows[n // 2]) / 2
    total = _total(rows[:kept])
    for first in range(n - kept):
        moves = median - rows[first] > rows[first + kept] - median
        np.copyto(total, _total(rows[first + 1 : first + 1 + kept]), where=moves)
    return total / kept


def _total(rows: Sequence[np.ndarray]) -> np.ndarray:
    total = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total
