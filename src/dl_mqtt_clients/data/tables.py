"""Any CSV or Parquet table: one file, or a folder with one each for train, validation and test.

Labels: numbers and booleans are classes as they are (0 normal; negative or empty: unknown). Of text labels, where one
is `normal` or `benign`, that one is 0 and all others are 1; otherwise they are classes in alphabetical order.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from dl_mqtt_clients.data.columns import PARQUET, TEXT, codes, read_columns, read_texts, read_types, require, text_array
from dl_mqtt_clients.data.dataset import Dataset, Splits, to_float32
from dl_mqtt_clients.data.split import split_rows
from dl_mqtt_clients.errors import DataError, MessageError

_NORMAL: Final = ("normal", "benign")
_MAX_CLASS: Final = 127


def load_table(
    path: Path,
    *,
    features: Sequence[str] = (),
    categorical: Sequence[str] = (),
    label: str = "",
    group: str = "",
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
) -> Splits:
    """A file is split by drawing rows with `seed`; a folder needs a train file, and test and validation if it has them.

    Args:
        path: file, or folder with files whose names contain train, test, and valid or val.
        features: columns; empty: all numeric and `categorical` ones but label and group.
        categorical: columns of words or whole numbers, which become codes (see `categories`).
        label: column; empty: all labels unknown.
        group: column, such as the device of each row; empty: none.
        validation: share of the rows that are not in a file of their own.
        test: the same.
        seed: of the draw.

    Raises:
        DataError: a file, column or value is not what is asked for.

    """
    files = _parts_in(path) if path.is_dir() else {"train": path}
    features = tuple(features) or _numeric(files["train"], (label, group), categorical)
    tables = {part: _read(file, features, categorical, label, group) for part, file in files.items()}
    classes = _classes(label, set().union(*(table.labels for table in tables.values())))
    parts = {part: table.to_dataset(features, classes, part) for part, table in tables.items()}
    shares = [0.0 if name in parts else share for name, share in (("validation", validation), ("test", test))]
    rest, for_validation, for_test = split_rows(len(parts["train"]), shares, seed=seed)
    train = parts["train"]
    return Splits(
        train=train.select(rest),
        validation=parts.get("validation", train.select(for_validation)),
        test=parts.get("test", train.select(for_test)),
    )


def _parts_in(folder: Path) -> dict[str, Path]:
    """The files by part. DataError when there is no train file, or more than one for a part."""
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in (*TEXT, *PARQUET))
    parts: dict[str, Path] = {}
    for part, mark in (("train", "train"), ("validation", "val"), ("test", "test")):
        found = [file for file in tables if mark in file.stem.lower()]
        if len(found) > 1:
            raise DataError(f"{folder}: expected one {part} file. Received: {[file.name for file in found]}")
        if found:
            parts[part] = found[0]
    if "train" not in parts:
        if len(tables) == 1:
            return {"train": tables[0]}
        raise DataError(
            f"{folder}: expected a table with 'train' in its name, or one table alone. "
            f"Received: {[file.name for file in tables][:20]}"
        )
    return parts


def _numeric(path: Path, without: Sequence[str], categorical: Sequence[str]) -> tuple[str, ...]:
    types = read_types(path)
    require(path, types, categorical)
    names = tuple(
        name for name, kind in types.items() if name in categorical or (kind.is_numeric() and name not in without)
    )
    if not names:
        raise DataError(f"{path}: expected at least one numeric column. Received: {list(types)[:20]}")
    return names


@dataclass(frozen=True)
class _Table:
    path: Path
    x: npt.NDArray[np.float32]
    labels: npt.NDArray[Any]  # [n] of text; empty where unknown
    groups: npt.NDArray[Any] | None

    def to_dataset(self, features: tuple[str, ...], classes: Mapping[str, int], part: str) -> Dataset:
        y = np.array([classes[text] for text in self.labels], np.int8)
        return Dataset(self.x, y, features, self.groups, f"{self.path.stem} {part}")


def _read(path: Path, features: Sequence[str], categorical: Sequence[str], label: str, group: str) -> _Table:
    extras = list(dict.fromkeys(filter(None, (label, group))))
    types = read_types(path)
    require(path, types, [*features, *extras])
    kinds = {name: types[name] if name in categorical else pl.Float64 for name in features}
    rows = read_columns(path, kinds)
    columns = [_codes(path, rows[name]) if name in categorical else rows[name].to_numpy() for name in features]
    x = np.stack(columns, axis=1)
    texts = read_texts(path, extras) if extras else pl.DataFrame()
    return _Table(
        path=path,
        x=to_float32(x),
        labels=text_array(texts[label]) if label else np.full(len(x), "", object),
        groups=text_array(texts[group]) if group else None,
    )


def _codes(path: Path, column: pl.Series) -> npt.NDArray[np.float64]:
    try:
        return codes(column)
    except MessageError as error:
        raise DataError(f"{path}: {column.name}: {error}") from error


def _classes(column: str, texts: set[str]) -> dict[str, int]:
    """Each different label -> its class; see the head of this file."""
    known = sorted(texts - {""})
    numbers = {text: _number(text) for text in known}
    if None not in numbers.values():
        classes = {text: max(-1, int(number or 0)) for text, number in numbers.items()}
        wrong = [text for text, number in numbers.items() if number != int(number or 0) or (number or 0) > _MAX_CLASS]
    else:
        normal = [text for text in known if text.lower() in _NORMAL]
        classes = {text: int(text not in normal) if normal else rank for rank, text in enumerate(known)}
        wrong = known if max(classes.values()) > _MAX_CLASS else []
    if wrong:
        raise DataError(f"{column}: expected classes from 0 to {_MAX_CLASS}. Received: {wrong[:5]}")
    return classes | {"": -1}


def _number(text: str) -> float | None:
    """A class written as 0, 1.0, true or false; None for other text."""
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None
