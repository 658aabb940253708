"""A data set as arrays: what every loader returns and everything else takes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.errors import DataError


def to_float32(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Contiguous; too large numbers become infinite, which `Dataset` refuses with their column."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(x, np.float32)


@dataclass(frozen=True)
class Dataset:
    """Rows with a label each. DataError when the arrays do not fit together or a value is not finite."""

    x: npt.NDArray[np.float32]  # [n, features], raw: no scaling
    y: npt.NDArray[np.int8]  # [n]: 0 normal, 1 … anomalous or class, -1 unknown
    features: tuple[str, ...]
    groups: npt.NDArray[Any] | None = None  # [n]: text, such as the host of each row
    name: str = ""

    def __post_init__(self) -> None:
        n = len(self.y)
        if self.x.shape != (n, len(self.features)):
            raise DataError(f"{self.name}: x: expected [{n}, {len(self.features)}]. Received: {list(self.x.shape)}")
        if len(set(self.features)) != len(self.features):
            raise DataError(f"{self.name}: features: expected different names. Received: some twice")
        if self.groups is not None and self.groups.shape != (n,):
            raise DataError(f"{self.name}: groups: expected [{n}]. Received: {list(self.groups.shape)}")
        if not np.isfinite(self.x).all():
            column = self.features[int(np.argmin(np.isfinite(self.x).all(axis=0)))]
            raise DataError(f"{self.name}: {column}: expected finite numbers. Received: NaN or infinite ones")

    def __len__(self) -> int:
        return len(self.y)

    def select(self, index: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | slice) -> "Dataset":
        """The rows of `index` (positions, mask or slice), copied unless a slice."""
        groups = None if self.groups is None else self.groups[index]
        return replace(self, x=self.x[index], y=self.y[index], groups=groups)

    def normal(self) -> "Dataset":
        """Rows not labelled anomalous."""
        return self.select(self.y <= 0)

    def anomalous(self) -> "Dataset":
        return self.select(self.y > 0)


def concat(parts: Sequence[Dataset]) -> Dataset:
    """All rows in order, named after the first. DataError when there is none or the features differ."""
    if not parts or any(part.features != parts[0].features for part in parts):
        raise DataError("concat: expected data sets with the same features. Received: none, or different ones")
    groups = [part.groups for part in parts if part.groups is not None]
    return replace(
        parts[0],
        x=np.concatenate([part.x for part in parts]),
        y=np.concatenate([part.y for part in parts]),
        groups=np.concatenate(groups) if len(groups) == len(parts) else None,
    )


@dataclass(frozen=True)
class Splits:
    """Training rows may contain anomalies, where the data set has them: `train.normal()` leaves them out."""

    train: Dataset
    validation: Dataset
    test: Dataset
