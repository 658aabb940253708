"""Categorical features before the core: each becomes a block of inputs, 1 where the reading holds that block's value.

A reading holds codes (`data.categories`); the vocabulary of a feature is the list of codes that have an input. It is a
weight, so that it travels with the model. A value that is not listed gives a block of zeros.
"""

from dataclasses import dataclass
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts, slots, vocabulary_from

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Categorical:
    """Which features are categories: their places in a reading, rising, and how many inputs each has."""

    columns: tuple[int, ...] = ()
    slots: int = 0

    def width(self, features: int) -> int:
        """Inputs of the core for readings of so many features: the numeric ones, then a block for each category."""
        return features + len(self.columns) * (self.slots - 1)

    def features(self, width: int) -> int:
        """Features of a reading when the core has so many inputs."""
        return width - len(self.columns) * (self.slots - 1)

    def numeric(self, features: int) -> list[int]:
        """Places of the other features."""
        return [place for place in range(features) if place not in self.columns]

    def of_slots(self) -> list[int]:
        """[C × slots]: the column that each input of the blocks looks at."""
        return [column for column in self.columns for _ in range(self.slots)]

    def vocabularies(self, x: NDArray[Any]) -> Array:
        """Codes [C, slots]: the most frequent ones in readings [n, features]."""
        found = [vocabulary_from([CategoryCounts.of(x[:, c])], size=self.slots) for c in self.columns]
        return np.stack([slots(listed, self.slots) for listed in found]) if found else self.none()

    def none(self) -> Array:
        """Codes [C, slots] of vocabularies that list nothing."""
        return np.tile(slots((), self.slots), (len(self.columns), 1))

    def join(self, x: Array, scaled: Array, codes: Array) -> Array:
        """Raw and scaled readings, both [n, features] -> [n, width]: the numeric ones scaled, then the blocks."""
        if not self.columns:
            return scaled
        hits = x[:, self.of_slots()] == codes.reshape(-1)
        return np.concatenate([scaled[:, self.numeric(x.shape[1])], hits.astype(np.float32)], axis=1)


NO_CATEGORIES: Final = Categorical()


def join(categorical: Categorical, x: Any, scaled: Any, minus_codes: Any) -> Any:
    """`Categorical.join` for tensors. `minus_codes`: [batch, C × slots] -> that minus the codes, 0 where it is one."""
    ops = keras.ops
    apart = minus_codes(ops.take(x, categorical.of_slots(), axis=1))
    numeric = ops.take(scaled, categorical.numeric(x.shape[-1]), axis=1)
    return ops.concatenate([numeric, ops.cast(ops.equal(apart, 0.0), "float32")], axis=1)
