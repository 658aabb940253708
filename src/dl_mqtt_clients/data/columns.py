"""CSV and Parquet files read by column, with errors that name the place."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from dl_mqtt_clients.data.categories import category_code
from dl_mqtt_clients.errors import DataError

PARQUET: Final = (".parquet", ".pq")
TEXT: Final = (".csv", ".tsv", ".txt")

Types = Mapping[str, Any]  # polars types


def read_types(path: Path, names: Sequence[str] | None = None) -> pl.Schema:
    """The file's columns with their types. `names`: those of a text file without a header.

    DataError when the file is absent, is no table, or has not as many columns as `names`.
    """
    if not path.is_file():
        beside = [file.name for file in path.parent.glob("*")] if path.parent.is_dir() else []
        raise DataError(f"{path}: expected a file. Received: none{closest(path.name, beside)}")
    try:
        found = _scan(path, has_header=names is None).collect_schema()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: expected a CSV or Parquet table. Received: {_first_line(error)}") from error
    if names is not None and len(found) != len(names):
        raise DataError(f"{path}: expected {len(names)} columns. Received: {len(found)}")
    return found if names is None else pl.Schema(dict(zip(names, found.values(), strict=True)))


def require(path: Path, present: Collection[str], wanted: Iterable[str]) -> None:
    """DataError when a wanted column is absent, with the likely meant one."""
    for column in wanted:
        if column not in present:
            received = repr(list(present)[:20])[1:300] + (" …" if len(present) > 20 else "")
            raise DataError(f"{path}: expected a column {column!r}{closest(column, present)}. Received: {received}")


def read_columns(path: Path, types: Types, names: Sequence[str] | None = None) -> pl.DataFrame:
    """Only the columns of `types`, streamed. DataError names the first value that is missing or of another type."""
    require(path, read_types(path, names), types)
    try:
        frame = _typed(path, types, names).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        wrong = _first_wrong(path, types, names)
        raise wrong or DataError(f"{path}: expected readable columns. Received: {_first_line(error)}") from error
    if frame.is_empty():
        raise DataError(f"{path}: expected at least one row. Received: none")
    if sum(frame.null_count().row(0)):
        raise _first_wrong(path, types, names) or DataError(f"{path}: expected no missing values. Received: some")
    return frame


def read_texts(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    """Columns as text; a missing value is empty."""
    try:
        frame = _typed(path, dict.fromkeys(columns, pl.String), None).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: expected readable columns. Received: {_first_line(error)}") from error
    return frame.with_columns(pl.all().fill_null("").str.strip_chars())


def text_array(column: pl.Series) -> npt.NDArray[Any]:
    """[n] of text; equal values share one string, so that a host's name is not stored a million times."""
    names = column.unique().cast(pl.String).sort()
    codes = column.cast(pl.String).replace_strict(names, range(len(names)), return_dtype=pl.Int32)
    texts: npt.NDArray[Any] = np.array(names.to_list(), object)[codes.to_numpy()]
    return texts


def codes(column: pl.Series) -> npt.NDArray[np.float64]:
    """[n] of words or whole numbers -> their codes. MessageError for other numbers."""
    values = column.unique().to_list()
    found: npt.NDArray[np.float64] = column.replace_strict(
        values, [category_code(value) for value in values], return_dtype=pl.Float64
    ).to_numpy()
    return found


def closest(name: str, candidates: Iterable[str]) -> str:
    """Text for an error: (did you mean 'hostName'?), or nothing."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[found[0]]!r}?)" if found else ""


def _scan(path: Path, *, has_header: bool, **options: Any) -> pl.LazyFrame:
    if path.suffix.lower() in PARQUET:
        return pl.scan_parquet(path)
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    return pl.scan_csv(path, separator=separator, has_header=has_header, **options)


def _typed(path: Path, types: Types, names: Sequence[str] | None) -> pl.LazyFrame:
    if path.suffix.lower() in PARQUET:
        return _scan(path, has_header=True).select(list(types)).cast({name: types[name] for name in types})
    options: dict[str, Any] = {} if names is None else {"new_columns": list(names)}
    return _scan(path, has_header=names is None, schema_overrides=dict(types), **options).select(list(types))


def _first_wrong(path: Path, types: Types, names: Sequence[str] | None) -> DataError | None:
    """Read everything as text once more, to find the value to show. Only after a failure."""
    if path.suffix.lower() in PARQUET:
        frame = _scan(path, has_header=True).select(list(types))
    else:
        options: dict[str, Any] = {} if names is None else {"new_columns": list(names)}
        frame = _scan(path, has_header=names is None, infer_schema=False, **options).select(list(types))
    for column, kind in types.items():
        wrong = (
            frame.select(pl.col(column))
            .with_row_index("row")
            .filter(pl.col(column).cast(kind, strict=False).is_null())
            .head(1)
        )
        found = wrong.collect(engine="streaming")
        if len(found):
            row, value = found.row(0)
            first_line = 1 if names is not None or path.suffix.lower() in PARQUET else 2
            expected = str(kind() if isinstance(kind, type) else kind)
            received = "nothing" if value is None else repr(value)[:100]
            return DataError(f"{path}: row {row + first_line}, {column}: expected {expected}. Received: {received}")
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
