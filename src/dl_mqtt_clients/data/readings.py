"""Readings as they arrive over MQTT: JSON bytes in, arrays out.

    {"data": [0.1, 7, …]}                          one reading
    {"data": [[0.1, 7, …], …]}                     many
    {"data": {"temperature": 0.1, …}}              one, by name: order is free, other names are ignored
    {"data": [{"temperature": 0.1, …}, …]}         many, by name

A categorical feature's value may be a word: it becomes its code (see `categories`).

Beside `data` may stand `id` (text or a 64-bit integer), `timestamp` (text or a number) and the label (its name is
a setting); of many readings each is a list as long as `data`, or one for all, an `id` then becoming "id/0",
"id/1", …. A reading given by name may carry its own instead, unless a feature has that name.

A label is a class from 0 (normal) to 127; true, "anomalous", "anomaly" and "attack" mean 1; false, "normal" and
"benign" mean 0; null, "", "unknown" and -1 mean that nobody knows. Numbers lie within ±2⁶³, so that their squares
stay finite as 32-bit floats. One wrong number makes its whole message malformed: nothing of it is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.data.forms import Form, build_forms, form_of
from dl_mqtt_clients.errors import MessageError

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_MAGNITUDE: Final = 2.0**63
MAX_LABEL: Final = 127
UNKNOWN: Final = -1

_LABELS: Final[dict[object, int]] = {
    **{label: label for label in range(UNKNOWN, MAX_LABEL + 1)},  # True, 1.0 and 1 are one key
    **{str(label): label for label in range(UNKNOWN, MAX_LABEL + 1)},
    **dict.fromkeys((None, "", "unknown"), UNKNOWN),
    **dict.fromkeys(("normal", "benign", "false"), 0),
    **dict.fromkeys(("anomalous", "anomaly", "attack", "true"), 1),
}


@dataclass(frozen=True, slots=True)
class Batch:
    """Readings in order of arrival; `ids` and `timestamps` hold None where the sender gave none."""

    x: npt.NDArray[np.float32]  # [n, features], finite
    labels: npt.NDArray[np.int8]  # [n]: -1 unknown, 0 normal, 1 … 127 anomalous or class
    ids: list[object]
    timestamps: list[object]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(slots=True)
class _Collected:
    """Columns that grow message by message; `packed` holds rows as float64 bytes: one numpy conversion for all."""

    packed: list[bytes] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # rows of each message
    labels: list[int] = field(default_factory=list)
    ids: list[object] = field(default_factory=list)
    timestamps: list[object] = field(default_factory=list)


class ReadingParser:
    """Decodes the readings of one stream. Not thread-safe: it remembers which form came last and tries it first."""

    def __init__(
        self,
        features: Sequence[str] | int,
        *,
        label: str = "label",
        categorical: Sequence[int] = (),
        max_bytes: int = MAX_BYTES,
        max_rows: int = 100_000,
    ) -> None:
        """`features`: their names, or only how many; `categorical`: places of those whose values may be words.

        DataError when names repeat or cannot be JSON keys.
        """
        self.features = features if isinstance(features, int) else len(features)
        self._max_bytes = max_bytes
        self._forms = build_forms(features, label=label, max_rows=max_rows, categorical=categorical)
        self._form = self._forms["values"]

    def parse(self, payload: bytes) -> Batch:
        """One message. MessageError gives a short reason, never the payload."""
        batch, reasons = self.collect((payload,))
        if reasons:
            raise MessageError(reasons[0])
        return batch

    def collect(self, payloads: Sequence[bytes]) -> tuple[Batch, list[str]]:
        """All good messages as one batch, and the reason of each malformed one."""
        collected = _Collected()
        reasons: list[str] = []
        for payload in payloads:
            try:
                self._add(payload, collected)
            except MessageError as error:
                reasons.append(str(error))
        return self._finish(collected, reasons)

    def _add(self, payload: bytes, to: _Collected) -> None:
        """Append a message's rows: all of them, or none and MessageError."""
        message = self._decode(payload)
        form = self._form
        if form.many:
            _add_many(form, message, to)
            return
        row, label, reading_id, timestamp = form.one(message)
        # What can fail comes first: a refused message leaves nothing behind.
        label_number = _LABELS.get(label)
        if label_number is None:
            label_number = _label(label)
        to.packed.append(form.pack(*row))  # may refuse as well
        to.counts.append(1)
        to.labels.append(label_number)
        to.ids.append(reading_id)
        to.timestamps.append(timestamp)

    def _decode(self, payload: bytes) -> Any:
        if len(payload) > self._max_bytes:
            raise MessageError(f"reading: expected at most {self._max_bytes} bytes. Received: {len(payload)}")
        try:
            return self._form.decode(payload)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return self._decode_other_form(payload)

    def _decode_other_form(self, payload: bytes) -> Any:
        """A stream seldom changes its form, so looking for another one may cost a second decoding."""
        try:
            form = form_of(payload, self._forms)
            message = form.decode(payload)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise MessageError(f"reading: {str(error)[:300]}") from None
        self._form = form
        return message

    def _finish(self, collected: _Collected, reasons: list[str]) -> tuple[Batch, list[str]]:
        wide = np.frombuffer(b"".join(collected.packed)).reshape(-1, self.features)
        labels = np.array(collected.labels, np.int8)
        ids, timestamps = collected.ids, collected.timestamps
        if wide.size and not _within_limits(wide):
            good = _rows_of_good_messages(wide, collected.counts, reasons)
            wide, labels = wide[good], labels[good]
            kept = np.flatnonzero(good).tolist()
            ids, timestamps = [ids[k] for k in kept], [timestamps[k] for k in kept]
        return Batch(wide.astype(np.float32), labels, ids, timestamps), reasons


def _within_limits(wide: npt.NDArray[np.float64]) -> bool:
    return bool(wide.max() <= MAX_MAGNITUDE and wide.min() >= -MAX_MAGNITUDE)


def _rows_of_good_messages(
    wide: npt.NDArray[np.float64], counts: list[int], reasons: list[str]
) -> npt.NDArray[np.bool_]:
    """[n, features] -> [n]: whether a row's message has no number beyond the limits; a reason for each that has."""
    too_large = (np.abs(wide) > MAX_MAGNITUDE).any(axis=1)
    message_of_row = np.repeat(np.arange(len(counts)), counts)
    bad = np.unique(message_of_row[too_large])
    reasons += ["reading: data: expected numbers within ±2^63. Received: a larger one"] * len(bad)
    return ~np.isin(message_of_row, bad)


def _add_many(form: Form, message: Any, to: _Collected) -> None:
    rows, own = form.rows(message)
    n = len(rows)
    labels = [_label(label) for label in _own_or(own.get("label"), _spread(message.label, n, "label"))]
    ids = _own_or(own.get("id"), _spread_ids(message.id, n))
    timestamps = _own_or(own.get("timestamp"), _spread(message.timestamp, n, "timestamp"))
    pack = form.pack
    to.packed += [pack(*row) for row in rows]
    to.counts.append(n)
    to.labels += labels
    to.ids += ids
    to.timestamps += timestamps


def _own_or(own: list[object] | None, common: list[object]) -> list[object]:
    """A reading's own value comes before the message's."""
    if own is None:
        return common
    return [theirs if mine is None else mine for mine, theirs in zip(own, common, strict=True)]


def _spread(value: object, n: int, name: str) -> list[object]:
    if not isinstance(value, list):
        return [value] * n
    if len(value) != n:
        raise MessageError(f"reading: {name}: expected one for each of {n} readings. Received: {len(value)}")
    return value


def _spread_ids(value: object, n: int) -> list[object]:
    if value is None or isinstance(value, list):
        return _spread(value, n, "id")
    return [f"{value}/{index}" for index in range(n)]


def _label(value: object) -> int:
    number = _LABELS.get(value.strip().lower() if isinstance(value, str) else value)
    if number is None:
        raise MessageError(
            f"reading: label: expected a class from 0 to {MAX_LABEL}, true, false, 'normal', 'anomalous' or null. "
            f"Received: another {type(value).__name__}"
        )
    return number
