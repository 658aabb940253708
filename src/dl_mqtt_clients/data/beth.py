"""BETH: kernel process events of honeypots (Highnam et al., "BETH Dataset: Real Cybersecurity Data for Anomaly
Detection Research", ICML workshop on uncertainty and robustness in deep learning, 2021).

The seven features and their preparation are the authors' own; `groups` is the host of each event. The label is
`sus` (unusual) or `evil` (malicious). Only the columns needed are read from the official CSV files.
"""

from pathlib import Path
from typing import Any, Final, Literal

import polars as pl

from dl_mqtt_clients.data.columns import read_columns, text_array
from dl_mqtt_clients.data.dataset import Dataset, Splits, to_float32

FILES: Final = {
    "train": "labelled_training_data.csv",
    "validation": "labelled_validation_data.csv",
    "test": "labelled_testing_data.csv",
}
FEATURES: Final = (
    "processId", "parentProcessId", "userId", "mountNamespace", "eventId", "argsNum", "returnValue",
)  # fmt: skip
GROUP: Final = "hostName"
Label = Literal["sus", "evil"]

_FIRST_PROCESSES: Final = (0, 1, 2)  # the kernel's own, and init
_FIRST_ORDINARY_USER: Final = 1000
_HOST_NAMESPACE: Final = 4026531840  # mounts as the host sees them, not a container or service


def load_beth(folder: Path, *, label: Label = "sus") -> Splits:
    """The three official files in `folder`. DataError names file, column, expected and received."""
    parts = {part: _load_file(folder / name, label) for part, name in FILES.items()}
    return Splits(**parts)


def prepare(events: pl.DataFrame) -> pl.DataFrame:
    """Official columns -> the seven features as float32; other columns stay."""
    return events.with_columns(
        (~pl.col("processId").is_in(_FIRST_PROCESSES)).cast(pl.Float32),
        (~pl.col("parentProcessId").is_in(_FIRST_PROCESSES)).cast(pl.Float32),
        (pl.col("userId") >= _FIRST_ORDINARY_USER).cast(pl.Float32),
        (pl.col("mountNamespace") != _HOST_NAMESPACE).cast(pl.Float32),
        pl.col("eventId", "argsNum").cast(pl.Float32),
        # 0 success, 1 a value such as a file descriptor, 2 an error
        pl.when(pl.col("returnValue") == 0).then(0).when(pl.col("returnValue") > 0).then(1).otherwise(2)
        .cast(pl.Float32).alias("returnValue"),
    )  # fmt: skip


def to_dataset(prepared: pl.DataFrame, *, label: Label, name: str) -> Dataset:
    """Prepared events, with `hostName` and the label's column, as arrays."""
    return Dataset(
        x=to_float32(prepared.select(FEATURES).to_numpy()),
        y=prepared[label].cast(pl.Int8).to_numpy().copy(),
        features=FEATURES,
        groups=text_array(prepared[GROUP]),
        name=name,
    )


def _load_file(path: Path, label: Label) -> Dataset:
    types: dict[str, Any] = {**dict.fromkeys(FEATURES, pl.Int64), GROUP: pl.String, label: pl.Int8}
    return to_dataset(prepare(read_columns(path, types)), label=label, name=path.stem)
