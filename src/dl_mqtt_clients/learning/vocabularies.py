"""Categorical features before the core: each becomes a block of inputs, of which the one for the reading's value is 1.

A reading holds codes (`data.categories`); the vocabulary of a feature is the list of codes that have an input. It is a
weight, so that it travels with the model. The last input of a block stands for all values that are not listed.
"""

from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts, padded, vocabulary_from

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Categorical:
    """Which features are categories: their places in a reading, rising, and how many values each lists at most."""

    columns: tuple[int, ...] = ()
    size: int = 0

    def width(self, features: int) -> int:
        """Inputs of the core: the numeric features, then a block of `size` + 1 for each category."""
        return features + len(self.columns) * self.size

    def features(self, width: int) -> int:
        """Features of a reading when the core has so many inputs."""
        return width - len(self.columns) * self.size

    def numeric(self, features: int) -> list[int]:
        """Places of the other features."""
        return [place for place in range(features) if place not in self.columns]

    def repeated(self) -> list[int]:
        """[C × size]: the column that each listed value is compared with."""
        return [column for column in self.columns for _ in range(self.size)]

    def vocabularies(self, x: NDArray[Any]) -> Array:
        """Codes [C, size]: the most frequent ones in readings [n, features]."""
        found = [vocabulary_from([CategoryCounts.of(x[:, c])], size=self.size) for c in self.columns]
        return np.stack([padded(listed, self.size) for listed in found]) if found else self.none()

    def none(self) -> Array:
        """Codes [C, size] of vocabularies that list nothing."""
        return np.tile(padded((), self.size), (len(self.columns), 1))

    def join(self, x: Array, scaled: Array, codes: Array) -> Array:
        """Raw and scaled readings, both [n, features] -> [n, width]: the numeric ones scaled, then the blocks."""
        if not self.columns:
            return scaled
        hits = (x[:, self.repeated()] == codes.reshape(-1)).reshape(-1, *codes.shape).astype(np.float32)
        blocks = np.concatenate([hits, 1.0 - hits.sum(axis=2, keepdims=True)], axis=2)
        return np.concatenate([scaled[:, self.numeric(x.shape[1])], blocks.reshape(len(x), -1)], axis=1)


NO_CATEGORIES: Final = Categorical()


def join(categorical: Categorical, x: Any, scaled: Any, minus_codes: Any) -> Any:
    """`Categorical.join` for tensors. `minus_codes`: [batch, C × size] -> that minus the codes, 0 where it is one."""
    ops = keras.ops
    apart = minus_codes(ops.take(x, categorical.repeated(), axis=1))
    blocks, size = len(categorical.columns), categorical.size
    hits = ops.reshape(ops.cast(ops.equal(apart, 0.0), "float32"), (-1, blocks, size))
    others = 1.0 - ops.sum(hits, axis=2, keepdims=True)
    both = ops.reshape(ops.concatenate([hits, others], axis=2), (-1, blocks * (size + 1)))
    return ops.concatenate([ops.take(scaled, categorical.numeric(x.shape[-1]), axis=1), both], axis=1)
