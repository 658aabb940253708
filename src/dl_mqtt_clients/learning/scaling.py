"""The scaler: one offset and one scale a feature, held as weights so that they travel with the model."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError

Vector = NDArray[np.float32]

# A spread below this share of the feature's magnitude is rounding of 32-bit floats, not information.
_CONSTANT_BELOW = 1e-9


@keras.saving.register_keras_serializable(package="dl_mqtt_clients")
class Scaling(keras.layers.Layer):  # type: ignore[misc]
    """(x - offset) × scale, a feature: [batch, features] -> [batch, features], float32.

    Both are weights that `call` uses, so values set later count (Keras's Normalization ignores those).
    Always 32-bit, since raw readings overflow 16.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"dtype": "float32", "trainable": False, **kwargs})

    def build(self, input_shape: Sequence[int | None]) -> None:
        features = (input_shape[-1],)
        self.offset = self.add_weight(shape=features, initializer="zeros", trainable=False, name="offset")
        self.scale = self.add_weight(shape=features, initializer="ones", trainable=False, name="scale")

    def call(self, x: Any) -> Any:
        return (x - self.offset) * self.scale

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        return input_shape


@dataclass(frozen=True, eq=False, slots=True)
class ScalerValues:
    """What a `Scaling` holds: scaled = (x - offset) × scale. Both [features], float32, finite; scale > 0."""

    offset: Vector
    scale: Vector

    def __post_init__(self) -> None:
        offset, scale = (np.array(v, dtype=np.float32) for v in (self.offset, self.scale))
        if offset.ndim != 1 or offset.shape != scale.shape or not offset.size:
            raise ModelError(
                f"scaler: expected offset and scale of one shape [features]. Received: {offset.shape}, {scale.shape}"
            )
        if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()):
            raise ModelError("scaler: expected finite offsets and finite scales above 0. Received: others")
        object.__setattr__(self, "offset", offset)
        object.__setattr__(self, "scale", scale)

    @classmethod
    def standard(cls, x: ArrayLike) -> Self:
        """Mean 0 and variance 1, a feature: [n, features]. A constant feature keeps scale 1."""
        rows = _rows(x)
        mean = rows.mean(axis=0)
        return cls(_float32(mean), _inverse(rows.std(axis=0), mean))

    @classmethod
    def minmax(cls, x: ArrayLike) -> Self:
        """To 0…1, a feature: [n, features]. A constant feature keeps scale 1."""
        rows = _rows(x)
        low, high = rows.min(axis=0), rows.max(axis=0)
        return cls(_float32(low), _inverse(high - low, np.maximum(np.abs(low), np.abs(high))))

    @classmethod
    def identity(cls, features: int) -> Self:
        return cls(np.zeros(features, np.float32), np.ones(features, np.float32))

    def apply(self, x: ArrayLike) -> Vector:
        """The same arithmetic as the layer's, in NumPy: [n, features] -> [n, features]."""
        return (np.asarray(x, dtype=np.float32) - self.offset) * self.scale

    def to_json(self, features: Sequence[str] = ()) -> str:
        """A copy for people (and `from_json`): the formula and one line a feature."""
        names = list(features) or [f"feature_{i}" for i in range(len(self.offset))]
        if len(names) != len(self.offset):
            raise ModelError(f"features: expected {len(self.offset)} names. Received: {len(names)}")
        rows = [
            {"name": n, "offset": float(o), "scale": float(s)}
            for n, o, s in zip(names, self.offset, self.scale, strict=True)
        ]
        lines = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        return f'{{\n  "v": 1,\n  "formula": "(x - offset) * scale",\n  "features": [\n    {lines}\n  ]\n}}\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """ModelError when it is not what `to_json` writes."""
        try:
            rows = json.loads(text)["features"]
            offset = np.array([float(row["offset"]) for row in rows], dtype=np.float32)
            scale = np.array([float(row["scale"]) for row in rows], dtype=np.float32)
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ModelError(f"scaler: expected JSON with features of offset and scale. Received: {error!r}") from error
        return cls(offset, scale)


def _rows(x: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise ModelError(f"scaler: expected finite readings [n > 0, features]. Received: shape {rows.shape}")
    return rows


def _inverse(spread: NDArray[np.float64], magnitude: NDArray[np.float64]) -> Vector:
    tiniest = 1.0 / float(np.finfo(np.float32).max)
    varies = (spread > _CONSTANT_BELOW * np.abs(magnitude)) & (spread > tiniest)
    return _float32(1.0 / np.where(varies, spread, 1.0))


def _float32(values: NDArray[np.float64]) -> Vector:
    """Rounded towards what 32 bits hold: beyond their range the nearest finite number, below it the smallest > 0."""
    limits = np.finfo(np.float32)
    held = np.clip(values, float(limits.min), float(limits.max)).astype(np.float32)
    return np.where((held == 0) & (values != 0), np.copysign(limits.tiny, values), held).astype(np.float32)


def required_features(shape: Sequence[int | None]) -> int:
    """Values a reading: the product of a core's input shape without the batch."""
    if any(size is None for size in shape):
        raise ModelError(f"core: expected a fixed input shape. Received: {tuple(shape)}")
    return math.prod(int(size or 0) for size in shape)
