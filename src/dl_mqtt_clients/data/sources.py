"""One way to every data set: by name, or by what lies in a folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

from dl_mqtt_clients.config import DataSettings
from dl_mqtt_clients.data import beth, nsl_kdd
from dl_mqtt_clients.data.arrays import load_arrays
from dl_mqtt_clients.data.columns import PARQUET, TEXT
from dl_mqtt_clients.data.dataset import Dataset, Splits
from dl_mqtt_clients.data.split import spread_rows
from dl_mqtt_clients.data.synthesis import synthesise
from dl_mqtt_clients.data.tables import load_table
from dl_mqtt_clients.errors import DataError

Source = Literal["synthetic", "beth", "nsl_kdd", "table", "arrays"]
SYNTHETIC_ROWS: Final = 100_000  # when no number is asked for


def load(
    source: Source,
    path: Path | str = "",
    *,
    features: Sequence[str] = (),
    categorical: Sequence[str] = (),
    label: str = "",
    group: str = "",
    rows: int = 0,
    seed: int = 0,
) -> Splits:
    """The data set of that kind at `path`.

    Args:
        source: kind of data set; `synthetic` needs no path.
        path: file or folder.
        features: columns to use; empty: all (of a table, all numeric ones).
        categorical: features that are words or codes, not amounts; of a table or NSL-KDD they become codes.
        label: column; empty: the data set's usual one, or none. BETH has `sus` and `evil`.
        group: column of a table that tells nodes apart.
        rows: at most so many of each part, evenly spaced; of synthetic data, so many in all; 0: all.
        seed: of synthesis and of drawing parts.

    Raises:
        DataError: no such kind, file, column or value.

    """
    if source == "synthetic":
        return _map(synthesise(rows=rows or SYNTHETIC_ROWS, seed=seed), features, 0)
    folder = Path(path)
    if not str(path) or not folder.exists():
        raise DataError(f"data: expected the path of a {source} data set. Received: {str(path)!r}, which is not there")
    if source == "table":
        return _map(
            load_table(folder, features=features, categorical=categorical, label=label, group=group, seed=seed),
            (),
            rows,
        )
    if source == "beth":
        if label not in ("", "sus", "evil"):
            raise DataError(f"data: label: expected sus or evil. Received: {label!r}")
        return _map(beth.load_beth(folder, label="evil" if label == "evil" else "sus"), features, rows)
    if source == "nsl_kdd":
        return _map(nsl_kdd.load_nsl_kdd(folder, categorical=categorical, seed=seed), features, rows)
    if source == "arrays":
        return _map(load_arrays(folder, seed=seed), features, rows)
    raise DataError(f"data: source: expected synthetic, beth, nsl_kdd, table or arrays. Received: {source!r}")


def load_configured(data: DataSettings) -> Splits:
    """The data set that the configuration's section `data` names."""
    return load(
        data.source,
        data.path,
        features=data.features,
        categorical=data.categorical,
        label=data.label,
        group=data.group,
        rows=data.rows,
        seed=data.seed,
    )


def detect(path: Path | str) -> Source:
    """The kind of data set at `path`, by the names of its files. DataError when none is known."""
    folder = Path(path)
    files = [folder] if folder.is_file() else sorted(folder.iterdir()) if folder.is_dir() else []
    names = {file.name for file in files}
    if names & set(beth.FILES.values()):
        return "beth"
    if names & {*nsl_kdd.TRAIN_FILES, nsl_kdd.TEST_FILE}:
        return "nsl_kdd"
    endings = {file.suffix.lower() for file in files}
    if endings & {*TEXT, *PARQUET}:
        return "table"
    if ".npz" in endings and folder.is_file():
        return "arrays"
    raise DataError(
        f"{folder}: expected BETH's or NSL-KDD's files, a CSV or Parquet table, or a .npz file. "
        f"Received: {sorted(names)[:20] or 'nothing'}"
    )


def _map(splits: Splits, features: Sequence[str], rows: int) -> Splits:
    return Splits(*(_narrow(part, features, rows) for part in (splits.train, splits.validation, splits.test)))


def _narrow(part: Dataset, features: Sequence[str], rows: int) -> Dataset:
    """Only some columns, and at most `rows` rows."""
    unknown = [name for name in features if name not in part.features]
    if unknown:
        raise DataError(f"data: features: expected some of {list(part.features)[:50]}. Received: {unknown}")
    if features:
        index = [part.features.index(name) for name in features]
        part = replace(part, x=part.x[:, index], features=tuple(features))
    return part.select(spread_rows(len(part), rows)) if rows else part
