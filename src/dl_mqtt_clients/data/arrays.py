"""Arrays in a .npz file: `x` and optionally `y`, `features`, `groups`; or `x_train`, `x_test`, … for each part."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from dl_mqtt_clients.data.dataset import Dataset, Splits, to_float32
from dl_mqtt_clients.data.split import split_rows
from dl_mqtt_clients.errors import DataError

_PARTS: Final = ("train", "validation", "test")


def load_arrays(path: Path, *, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> Splits:
    """Parts that the file has not are drawn from its training rows. DataError when it is not as above."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:  # a pickle could run anything
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise DataError(f"{path}: expected a .npz file of plain arrays. Received: {str(error)[:200]}") from error
    if "x" in arrays:
        whole = _dataset(path, arrays, "")
        parts = {"train": whole}
    elif "x_train" in arrays:
        parts = {part: _dataset(path, arrays, f"_{part}") for part in _PARTS if f"x_{part}" in arrays}
    else:
        raise DataError(f"{path}: expected an array 'x' or 'x_train'. Received: {sorted(arrays)[:20]}")
    train = parts["train"]
    shares = [0.0 if name in parts else share for name, share in (("validation", validation), ("test", test))]
    rest, for_validation, for_test = split_rows(len(train), shares, seed=seed)
    return Splits(
        train=train.select(rest),
        validation=parts.get("validation", train.select(for_validation)),
        test=parts.get("test", train.select(for_test)),
    )


def _dataset(path: Path, arrays: Mapping[str, Any], suffix: str) -> Dataset:
    x = arrays[f"x{suffix}"]
    if x.ndim != 2 or x.dtype.kind not in "fiub":
        raise DataError(f"{path}: x{suffix}: expected numbers [n, features]. Received: {x.dtype} {list(x.shape)}")
    y = arrays.get(f"y{suffix}", np.full(len(x), -1))
    if y.dtype.kind not in "iub" or (y.size and not -1 <= int(y.min()) <= int(y.max()) <= 127):
        raise DataError(f"{path}: y{suffix}: expected classes from -1 to 127. Received: {y.dtype}")
    features = arrays.get("features", np.array([f"f{index}" for index in range(x.shape[1])]))
    return Dataset(
        x=to_float32(x),
        y=y.astype(np.int8),
        features=tuple(features.astype(str)),
        groups=arrays.get(f"groups{suffix}"),
        name=f"{path.stem}{suffix}",
    )
