"""Vocabularies: which values of a categorical feature get an input of their own, agreed on by all nodes.

Nodes count the codes of values (`data.categories`); counts add exactly. A value is listed when it was seen often
enough, and on enough nodes, so that a value only one node has (a user's name, a host's) is not told to the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.aggregation.histogram import MAX_COUNT
from dl_mqtt_clients.wire.feature_sums import MAX_CODE, MAX_VALUES, UNUSED, CategorySums

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CategoryCounts:
    """How often a node saw each value of one feature. `a + b` is what both saw, in any order."""

    counts: Mapping[int, int]  # code -> how often, > 0
    other: int = 0  # readings whose value is not told

    @classmethod
    def of(cls, column: ArrayLike) -> Self:
        """Codes [n], whole numbers within ±2²⁴."""
        codes, counts = np.unique(np.asarray(column, np.int64), return_counts=True)
        return cls(dict(zip(codes.tolist(), counts.tolist(), strict=True)))

    @property
    def total(self) -> int:
        """Readings."""
        return sum(self.counts.values()) + self.other

    def __add__(self, other: Self) -> Self:
        return type(self)(dict(Counter(self.counts) + Counter(other.counts)), self.other + other.other)

    def to_message(self) -> CategorySums:
        """The most frequent values, at most MAX_VALUES; the rest is added to `other`."""
        told = _most_frequent(self.counts.items(), MAX_VALUES)
        counts = tuple(n for _, n in told)
        return CategorySums(values=tuple(v for v, _ in told), counts=counts, other=self.total - sum(counts))

    @classmethod
    def from_message(cls, sums: CategorySums, *, max_readings: int = MAX_COUNT) -> Self:
        """ValueError when values repeat, are no codes, do not fit their counts, or are too many readings."""
        total, different = sum(sums.counts) + sums.other, len(set(sums.values))
        if not different == len(sums.values) == len(sums.counts):
            raise ValueError(
                f"vocabulary: expected distinct values with as many counts. Received: {different} of "
                f"{len(sums.values)} and {len(sums.counts)}"
            )
        if total > max_readings or min(sums.counts, default=1) < 1 or sums.other < 0:
            raise ValueError(f"vocabulary: expected counts above 0, at most {max_readings} together. Received: {total}")
        if max(map(abs, sums.values), default=0) > MAX_CODE:
            raise ValueError("vocabulary: expected codes within ±2^24. Received: others")
        return cls(dict(zip(sums.values, sums.counts, strict=True)), sums.other)


def vocabulary_from(
    counts: Iterable[CategoryCounts], *, size: int, min_count: int = 1, min_nodes: int = 1
) -> tuple[int, ...]:
    """The counts of one feature, a node each -> the listed codes, rising. The same for the same counts in any order.

    Listed: seen at least `min_count` times in all, on at least `min_nodes` nodes; of too many the most frequent
    `size`, equally frequent ones by their code.
    """
    total, nodes = Counter[int](), Counter[int]()
    for part in counts:
        total.update(part.counts)
        nodes.update(part.counts.keys())
    listed = [(v, n) for v, n in total.items() if n >= min_count and nodes[v] >= min_nodes]
    return tuple(sorted(v for v, _ in _most_frequent(listed, size)))


def padded(vocabulary: Iterable[int], size: int) -> Vector:
    """Codes [size], float32: the vocabulary's, then UNUSED, which no reading can hold."""
    listed = list(vocabulary)
    return np.array(listed + [UNUSED] * (size - len(listed)), np.float32)


def _most_frequent(items: Iterable[tuple[int, int]], most: int) -> list[tuple[int, int]]:
    return sorted(items, key=lambda item: (-item[1], item[0]))[:most]
