"""Numbers for the values of a categorical feature that all nodes agree on: 1, 2, …, and 0 for any value not listed.

Nodes count values; the counts add exactly. A value is listed when it was seen often enough and on enough nodes, so that
a value only one node has (a user's name, a host's) is not told to the others.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation.histogram import MAX_COUNT
from dl_mqtt_clients.errors import RefusedError
from dl_mqtt_clients.wire.feature_sums import MAX_VALUES, CategorySums

UNKNOWN: Final = 0
LONGEST: Final = 256  # characters of a value; longer ones are counted as `other`


@dataclass(frozen=True, slots=True)
class CategoryCounts:
    """How often a node saw each value of one feature. `a + b` is what both saw, in any order."""

    counts: Mapping[str, int]  # > 0
    other: int = 0  # readings whose value is not told

    @classmethod
    def of(cls, values: Iterable[object], *, at_least: int = 1) -> Self:
        """Values as text (8 and "8" are one). Those seen fewer than `at_least` times stay untold, as `other`."""
        seen = Counter(str(value) for value in values)
        told = {v: n for v, n in seen.items() if n >= at_least and len(v) <= LONGEST and v.isprintable()}
        return cls(told, seen.total() - sum(told.values()))

    def __add__(self, other: Self) -> Self:
        return type(self)(dict(Counter(self.counts) + Counter(other.counts)), self.other + other.other)

    def to_message(self) -> CategorySums:
        """The most frequent values, at most MAX_VALUES; the rest is added to `other`."""
        told = sorted(self.counts.items(), key=_by_frequency)[:MAX_VALUES]
        untold = sum(self.counts.values()) - sum(n for _, n in told)
        return CategorySums(
            values=tuple(v for v, _ in told), counts=tuple(n for _, n in told), other=self.other + untold
        )

    @classmethod
    def from_message(cls, sums: CategorySums, *, max_readings: int = MAX_COUNT) -> Self:
        """ValueError when values repeat, cannot be printed, do not fit their counts, or are too many readings."""
        total = sum(sums.counts) + sums.other
        if len(sums.values) != len(sums.counts) or len(set(sums.values)) != len(sums.values):
            raise ValueError(
                f"vocabulary: expected distinct values with as many counts. Received: {len(set(sums.values))} of "
                f"{len(sums.values)} and {len(sums.counts)}"
            )
        if total > max_readings or min(sums.counts, default=1) < 1 or sums.other < 0:
            raise ValueError(f"vocabulary: expected counts above 0, at most {max_readings} together. Received: {total}")
        if not all(len(value) <= LONGEST and value.isprintable() for value in sums.values):
            raise ValueError(f"vocabulary: expected printable values of at most {LONGEST} characters. Received: others")
        return cls(dict(zip(sums.values, sums.counts, strict=True)), sums.other)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Listed values in the order of their text; their numbers begin with 1."""

    values: tuple[str, ...]

    def __len__(self) -> int:
        """Numbers there are, UNKNOWN included: the size of an embedding or a one-hot row."""
        return len(self.values) + 1

    def encode(self, values: Iterable[object]) -> NDArray[np.int32]:
        """[n] values -> [n] numbers, UNKNOWN for those not listed."""
        numbers = {value: number for number, value in enumerate(self.values, start=1)}
        return np.array([numbers.get(str(value), UNKNOWN) for value in values], dtype=np.int32)


def vocabulary_from(
    counts: Mapping[str, CategoryCounts], *, min_count: int = 1, min_nodes: int = 1, max_size: int = MAX_VALUES
) -> Vocabulary:
    """Node -> its counts of one feature. The same vocabulary for the same counts, in whatever order they came.

    Listed: seen at least `min_count` times in all, on at least `min_nodes` nodes; of too many the most frequent
    `max_size`, equally frequent ones by their text. RefusedError with fewer than `min_nodes` contributors.
    """
    heard = [part for part in counts.values() if part.counts or part.other]
    if len(heard) < min_nodes:
        raise RefusedError(f"vocabulary: expected counts of at least {min_nodes} nodes. Received: {len(heard)}")
    total, nodes = Counter[str](), Counter[str]()
    for part in heard:
        total.update(part.counts)
        nodes.update(part.counts.keys())
    listed = [(v, n) for v, n in total.items() if n >= min_count and nodes[v] >= min_nodes]
    return Vocabulary(tuple(sorted(v for v, _ in sorted(listed, key=_by_frequency)[:max_size])))


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
