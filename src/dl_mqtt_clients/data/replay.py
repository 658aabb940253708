"""A data set as a live stream: which rows are due when. Pure: the caller holds the clock and the connection."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.errors import DataError

Index = npt.NDArray[np.integer[Any]]
Kind = Literal["normal", "anomalous"]

_encoder = msgspec.json.Encoder()


class Replay:
    """The schedule of one stream; iterating begins it anew.

    Cycles alternate between normal rows for `normal_s` and anomalous ones for `anomalous_s`, beginning with `start`;
    each kind goes on where it stopped. With one duration 0 only the other kind comes; with both 0, all rows in the
    data's own order.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        rate: float,
        batch: int = 1,
        start: Kind = "normal",
        normal_s: float = 0.0,
        anomalous_s: float = 0.0,
        duration_s: float = 0.0,
        loop: bool = True,
        seed: int | None = None,
    ) -> None:
        """Prepare, and check that every kind asked for has rows.

        Args:
            dataset: one node's rows.
            rate: readings a second; 0: all due at once (then without cycles and duration).
            batch: readings together at most, ≥ 1.
            start: kind that a cycle begins with.
            normal_s: duration of normal readings, seconds.
            anomalous_s: of anomalous ones.
            duration_s: of everything; 0: no limit.
            loop: begin again with the first row after the last; otherwise the stream ends there.
            seed: None keeps the data's order; a number shuffles each pass.

        Raises:
            DataError: an argument out of range, or no row of a kind.

        """
        if rate < 0 or batch < 1 or min(normal_s, anomalous_s, duration_s) < 0:
            raise DataError("replay: expected rate, durations ≥ 0 and batch ≥ 1. Received: a lower number")
        if rate == 0 and max(normal_s, anomalous_s, duration_s) > 0:
            raise DataError("replay: expected a rate > 0 with cycles or a duration. Received: 0")
        self._rate, self._batch, self._loop, self._seed = rate, batch, loop, seed
        self._limit = round(duration_s * rate) if duration_s > 0 else None
        self._phases = _phases(dataset, rate, start, {"normal": normal_s, "anomalous": anomalous_s})

    def __iter__(self) -> Iterator[tuple[float, Index]]:
        """(due_s since the start, rows of the data set): the first reading of a batch is due then."""
        rows = [_Rows(index, loop=self._loop, seed=self._seed) for index, _ in self._phases]
        sent = 0
        while True:
            for cursor, (_, readings) in zip(rows, self._phases, strict=True):
                left = readings
                while left is None or left > 0:
                    wanted = min(n for n in (self._batch, left, self._left(sent)) if n is not None)
                    taken = cursor.take(wanted)
                    if len(taken) == 0:
                        return
                    yield (sent / self._rate if self._rate else 0.0), taken
                    sent += len(taken)
                    left = None if left is None else left - len(taken)

    def _left(self, sent: int) -> int | None:
        return None if self._limit is None else self._limit - sent


class _Rows:
    """A cursor over rows, in passes."""

    def __init__(self, index: Index, *, loop: bool, seed: int | None) -> None:
        self._index, self._loop = index, loop
        self._rng = None if seed is None else np.random.default_rng(seed)
        self._begin()

    def take(self, n: int) -> Index:
        """The next rows: n, fewer at the end of a pass, none at the end of all."""
        if self._at == len(self._index) and self._loop:
            self._begin()
        taken = self._order[self._at : self._at + n]
        self._at += len(taken)
        return taken

    def _begin(self) -> None:
        self._at = 0
        self._order = self._index if self._rng is None else self._rng.permutation(self._index)


def _phases(dataset: Dataset, rate: float, start: Kind, seconds: dict[Kind, float]) -> list[tuple[Index, int | None]]:
    """Rows of each phase of a cycle, and its readings; None: no end."""
    if not any(seconds.values()):
        return [(_rows_of(dataset, None), None)]
    order: list[Kind] = ["normal", "anomalous"] if start == "normal" else ["anomalous", "normal"]
    kinds = [kind for kind in order if seconds[kind] > 0]
    if len(kinds) == 1:
        return [(_rows_of(dataset, kinds[0]), None)]
    return [(_rows_of(dataset, kind), max(1, round(seconds[kind] * rate))) for kind in kinds]


def _rows_of(dataset: Dataset, kind: Kind | None) -> Index:
    chosen = np.ones(len(dataset), bool) if kind is None else (dataset.y > 0) == (kind == "anomalous")
    if not chosen.any():
        raise DataError(f"replay: expected {kind or 'at least one'} rows in {dataset.name!r}. Received: none")
    return np.flatnonzero(chosen)


def encode_readings(
    x: npt.NDArray[np.float32],
    labels: Sequence[int] | npt.NDArray[np.int8] | None = None,
    ids: Sequence[object] | None = None,
    timestamps: Sequence[object] | None = None,
    *,
    feature_names: Sequence[str] | None = None,
    label: str = "label",
) -> bytes:
    """[n, features] -> JSON as `ReadingParser` reads it: one reading in the original's form, several as lists.

    Labels of -1 stay unsaid. With names each reading is an object.
    """
    data: list[Any] = x.tolist()
    if feature_names is not None:
        data = [dict(zip(feature_names, row, strict=True)) for row in data]
    extras: dict[str, list[Any] | None] = {
        label: None if labels is None else [None if value < 0 else int(value) for value in labels],
        "id": None if ids is None else list(ids),
        "timestamp": None if timestamps is None else list(timestamps),
    }
    message: dict[str, Any] = {"data": data[0] if len(data) == 1 else data}
    for name, values in extras.items():
        if values is not None and any(value is not None for value in values):
            message[name] = values[0] if len(data) == 1 else values
    return _encoder.encode(message)
