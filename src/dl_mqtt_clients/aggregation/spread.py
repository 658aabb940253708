"""A figure node by node: the mean hides the node that suffers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Spread:
    """Worst, median and best of one figure over nodes."""

    worst: float
    median: float
    best: float
    worst_node: str
    nodes: int

    @classmethod
    def of(cls, values: Mapping[str, float], *, larger_is_better: bool = False) -> Self | None:
        """Node -> its figure (a loss; with `larger_is_better` an AUROC). NaN is worst. None without nodes."""
        if not values:
            return None

        def badness(node: str) -> tuple[float, str]:
            value = values[node]
            return math.inf if math.isnan(value) else -value if larger_is_better else value, node

        ranked = sorted(values, key=badness)
        below, above = values[ranked[(len(ranked) - 1) // 2]], values[ranked[len(ranked) // 2]]
        return cls(values[ranked[-1]], below / 2 + above / 2, values[ranked[0]], ranked[-1], len(ranked))
