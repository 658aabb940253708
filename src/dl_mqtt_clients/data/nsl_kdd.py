"""NSL-KDD: network connections, normal or an attack (Tavallaee et al., "A detailed analysis of the KDD CUP 99 data
set", IEEE symposium on computational intelligence for security and defense applications, 2009).

Numbers become sign(v)·log(1 + |v|), since bytes and counts span nine orders of magnitude; protocol, service and flag
become one column for each value that the training file has, and one for any other; or, where they are `categorical`,
the codes of their words. Nothing is scaled: scaling is learnt by the federation. `groups` is the service, by which
connections fall apart into unlike nodes.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from dl_mqtt_clients.data.columns import codes, read_columns, text_array
from dl_mqtt_clients.data.dataset import Dataset, Splits, to_float32
from dl_mqtt_clients.data.split import split_rows
from dl_mqtt_clients.errors import DataError

TRAIN_FILES: Final = ("KDDTrain+.txt", "KDDTrain+_20Percent.txt")  # the first that is there
TEST_FILE: Final = "KDDTest+.txt"
COLUMNS: Final = (
    "duration", "protocol_type", "service", "flag", "src_bytes", "dst_bytes", "land", "wrong_fragment", "urgent",
    "hot", "num_failed_logins", "logged_in", "num_compromised", "root_shell", "su_attempted", "num_root",
    "num_file_creations", "num_shells", "num_access_files", "num_outbound_cmds", "is_host_login", "is_guest_login",
    "count", "srv_count", "serror_rate", "srv_serror_rate", "rerror_rate", "srv_rerror_rate", "same_srv_rate",
    "diff_srv_rate", "srv_diff_host_rate", "dst_host_count", "dst_host_srv_count", "dst_host_same_srv_rate",
    "dst_host_diff_srv_rate", "dst_host_same_src_port_rate", "dst_host_srv_diff_host_rate", "dst_host_serror_rate",
    "dst_host_srv_serror_rate", "dst_host_rerror_rate", "dst_host_srv_rerror_rate", "label", "difficulty",
)  # fmt: skip
CATEGORIES: Final = ("protocol_type", "service", "flag")
_OTHER: Final = "<other>"  # there is a service called other
NUMBERS: Final = tuple(name for name in COLUMNS[:41] if name not in CATEGORIES)
_TYPES: Final[dict[str, Any]] = {
    **dict.fromkeys(NUMBERS, pl.Float64),
    **dict.fromkeys((*CATEGORIES, "label"), pl.String),
}


def load_nsl_kdd(folder: Path, *, categorical: Collection[str] = (), validation: float = 0.1, seed: int = 0) -> Splits:
    """Training file and KDDTest+; `validation` is the share of the training rows set apart, drawn with `seed`."""
    train_path = next((folder / name for name in TRAIN_FILES if (folder / name).exists()), None)
    if train_path is None:
        raise DataError(f"{folder}: expected {' or '.join(TRAIN_FILES)}. Received: neither")
    rows = read_columns(train_path, _TYPES, COLUMNS)
    values = {name: rows[name].unique().sort().to_list() for name in CATEGORIES if name not in categorical}
    known = _to_dataset(rows, values, "NSL-KDD train")
    rest, apart = split_rows(len(known), (validation,), seed=seed)
    test = _to_dataset(read_columns(folder / TEST_FILE, _TYPES, COLUMNS), values, "NSL-KDD test")
    return Splits(known.select(rest), known.select(apart), test)


def _to_dataset(rows: pl.DataFrame, values: dict[str, list[str]], name: str) -> Dataset:
    numbers = rows.select(NUMBERS).to_numpy()
    blocks = [np.sign(numbers) * np.log1p(np.abs(numbers))]
    blocks += [_one_hot(rows[column], listed) for column, listed in values.items()]
    names = [f"{column}={value}" for column, listed in values.items() for value in (*listed, _OTHER)]
    words = [column for column in CATEGORIES if column not in values]
    blocks += [codes(rows[column])[:, None] for column in words]
    return Dataset(
        x=to_float32(np.concatenate(blocks, axis=1)),
        y=(rows["label"] != "normal").cast(pl.Int8).to_numpy().copy(),
        features=(*NUMBERS, *names, *words),
        groups=text_array(rows["service"]),
        name=name,
    )


def _one_hot(column: pl.Series, values: list[str]) -> npt.NDArray[np.float32]:
    """[n] text -> [n, values + 1]; the last column stands for values not listed."""
    codes = column.replace_strict(values, range(len(values)), default=len(values), return_dtype=pl.Int32)
    rows: npt.NDArray[np.float32] = np.eye(len(values) + 1, dtype=np.float32)[codes.to_numpy()]
    return rows
