"""The scaler: one offset and one scale a feature, held as weights so that they travel with the model.

Categorical features have vocabularies instead (`vocabularies`); their offset is 0 and their scale 1.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.aggregation.scaler import inverse, rounded
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.vocabularies import NO_CATEGORIES, Categorical, join
from dl_mqtt_clients.wire.feature_sums import UNUSED

Vector = NDArray[np.float32]


class Scaling(keras.layers.Layer):  # type: ignore[misc]
    """(x - offset) × scale, a feature, and blocks for categorical ones: [batch, features] -> [batch, width], float32.

    All are weights that `call` uses, so values set later count (Keras's Normalization ignores those).
    Always 32-bit, since raw readings overflow 16.
    """

    def __init__(self, categorical: Categorical = NO_CATEGORIES, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})
        self._categorical = categorical

    def build(self, input_shape: Sequence[int | None]) -> None:
        features, codes = (input_shape[-1],), (len(self._categorical.columns), self._categorical.size)
        self.offset = self.add_weight(shape=features, initializer="zeros", trainable=False, name="offset")
        self.scale = self.add_weight(shape=features, initializer="ones", trainable=False, name="scale")
        if self._categorical.columns:
            self.codes = self.add_weight(shape=codes, initializer="zeros", trainable=False, name="codes")

    def call(self, x: Any) -> Any:
        scaled = (x - self.offset) * self.scale
        if not self._categorical.columns:
            return scaled
        return join(self._categorical, x, scaled, lambda wanted: wanted - keras.ops.reshape(self.codes, (-1,)))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return *input_shape[:-1], self._categorical.width(int(input_shape[-1] or 0))


@dataclass(frozen=True, eq=False, slots=True)
class ScalerValues:
    """What stands before the core: scaled = (x - offset) × scale, and the vocabularies of categorical features.

    `offset`, `scale`: [features], float32, finite; scale > 0. `codes`: [categories, size].
    """

    offset: Vector
    scale: Vector
    categorical: Categorical = NO_CATEGORIES
    codes: Vector = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __post_init__(self) -> None:
        offset, scale, codes = (np.array(v, dtype=np.float32) for v in (self.offset, self.scale, self.codes))
        if offset.ndim != 1 or offset.shape != scale.shape or not offset.size:
            raise ModelError(
                f"scaler: expected offset and scale of one shape [features]. Received: {offset.shape}, {scale.shape}"
            )
        if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ModelError("scaler: expected finite offsets and finite scales above 0. Received: others")
        shape = (len(self.categorical.columns), self.categorical.size)
        if codes.shape != shape:
            raise ModelError(f"scaler: expected codes of shape {shape}. Received: {codes.shape}")
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "codes", codes)

    @classmethod
    def standard(cls, x: ArrayLike, *, categorical: Categorical = NO_CATEGORIES) -> Self:
        """Mean 0 and variance 1, a feature: [n, features]. A constant feature keeps scale 1."""
        rows = _rows(x)
        mean = rows.mean(axis=0)
        scale = rounded(inverse(rows.std(axis=0), np.abs(mean)))
        return cls(rounded(mean), scale).listing(categorical, rows)

    @classmethod
    def minmax(cls, x: ArrayLike, *, categorical: Categorical = NO_CATEGORIES) -> Self:
        """To 0…1, a feature: [n, features]. A constant feature keeps scale 1."""
        rows = _rows(x)
        low, high = rows.min(axis=0), rows.max(axis=0)
        scale = rounded(inverse(high - low, np.maximum(np.abs(low), np.abs(high))))
        return cls(rounded(low), scale).listing(categorical, rows)

    @classmethod
    def identity(cls, features: int, *, categorical: Categorical = NO_CATEGORIES) -> Self:
        """Nothing is scaled, and no category has a vocabulary yet."""
        offset, scale = np.zeros(features, np.float32), np.ones(features, np.float32)
        return cls(offset, scale, categorical, categorical.none())

    def listing(self, categorical: Categorical, x: ArrayLike) -> Self:
        """The same, with vocabularies of these readings [n, features] for what is categorical."""
        offset, scale = self.offset.copy(), self.scale.copy()
        columns = list(categorical.columns)
        offset[columns], scale[columns] = 0.0, 1.0
        return type(self)(offset, scale, categorical, categorical.vocabularies(np.asarray(x)))

    def apply(self, x: ArrayLike) -> Vector:
        """The same arithmetic as the layers', in NumPy: [n, features] -> [n, width]."""
        rows = np.asarray(x, dtype=np.float32)
        return self.categorical.join(rows, (rows - self.offset) * self.scale, self.codes)

    def rows(self, features: Sequence[str] = ()) -> list[dict[str, Any]]:
        """A row a feature, for people: name, offset and scale, or of a categorical one its size and listed codes."""
        names = list(features) or [f"feature_{i}" for i in range(len(self.offset))]
        if len(names) != len(self.offset):
            raise ModelError(f"features: expected {len(self.offset)} names. Received: {len(names)}")
        rows: list[dict[str, Any]] = [
            {"name": n, "offset": float(o), "scale": float(s)}
            for n, o, s in zip(names, self.offset, self.scale, strict=True)
        ]
        for column, codes in zip(self.categorical.columns, self.codes, strict=True):
            listed = [int(code) for code in codes if code != UNUSED]
            rows[column] = {"name": names[column], "size": len(codes), "codes": listed}
        return rows

    def to_json(self, features: Sequence[str] = ()) -> str:
        """The same as JSON, a line a feature, with the formula."""
        lines = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in self.rows(features))
        return f'{{\n  "v": 1,\n  "formula": "(x - offset) * scale",\n  "features": [\n    {lines}\n  ]\n}}\n'


def _rows(x: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ModelError(f"scaler: expected finite readings [n > 0, features]. Received: shape {rows.shape}")
    return rows


def required_features(shape: Sequence[int | None]) -> int:
    """Values a reading: the product of a core's input shape without the batch."""
    if any(size is None for size in shape):
        raise ModelError(f"core: expected a fixed input shape. Received: {tuple(shape)}")
    return math.prod(int(size or 0) for size in shape)
