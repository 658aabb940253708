"""Whether an exported model computes what Keras does, on the same readings. Imports no Keras.

Two programs for one formula differ in the last digits. A score is a sum of squares, so its digits are worth what the
typical score is: a difference counts relative to the score itself, or to the median score where that is larger.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.feature_sums import UNUSED

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.scaling import ScalerValues

RELATIVE: Final = 1e-5
BATCHES: Final = (1, 3, 64)  # rows: an export that holds for one size of batch only is found out

Outputs = dict[str, NDArray[Any]]


def probe_readings(scaler: "ScalerValues", *, rows: int) -> NDArray[np.float32]:
    """Readings [rows, features] as the scaler expects them, some far outside; categories listed, and one not."""
    rng = np.random.default_rng(0)
    scaled = rng.normal(size=(rows, len(scaler.offset))) * rng.choice([1.0, 5.0], size=(rows, 1))
    with np.errstate(over="ignore"):
        raw: NDArray[np.float32] = np.nan_to_num(
            (scaled / scaler.scale.astype(np.float64) + scaler.offset).astype(np.float32)
        )
    for column, codes in zip(scaler.categorical.columns, scaler.codes, strict=True):
        raw[:, column] = rng.choice([*codes, -UNUSED], size=rows)
    return raw


def check_same(
    model: "FederatedModel", run: Callable[[NDArray[np.float32]], Outputs], *, threshold: float | None, name: str
) -> float:
    """ModelError unless `run` gives what the model gives; otherwise the largest relative difference that was seen.

    Args:
        model: with the weights that were exported.
        run: readings [n, features] -> outputs by name: `score`, perhaps `output` and `verdict`.
        threshold: that verdicts were made with.
        name: of what was exported, for the error.

    """
    largest = 0.0
    for rows in BATCHES:
        x = probe_readings(model.scaler, rows=rows)
        score, output = model.predict(x)
        wanted = {"score": score} | ({} if output is None else {"output": output})
        found = run(x)
        largest = max(largest, *(_difference(wanted[key], found.get(key), f"{name}: {key}") for key in wanted))
        if threshold is not None:
            _check_verdicts(score, np.float32(threshold), found, name)
    return largest


def _difference(wanted: NDArray[Any], found: NDArray[Any] | None, name: str) -> float:
    if found is None or found.shape != wanted.shape:
        raise ModelError(f"{name}: expected shape {wanted.shape}. Received: {getattr(found, 'shape', None)}")
    if not np.array_equal(np.isfinite(wanted), np.isfinite(found)):
        raise ModelError(f"{name}: expected numbers where Keras has them. Received: NaN or infinity")
    finite = np.isfinite(wanted)
    exact = np.abs(wanted[finite].astype(np.float64))
    worth = np.maximum(exact, np.median(exact)) if exact.size else exact
    apart = np.abs(wanted[finite].astype(np.float64) - found[finite])
    largest = float(np.max(apart / np.maximum(worth, np.finfo(np.float32).tiny), initial=0.0))
    if largest > RELATIVE:
        raise ModelError(f"{name}: expected what Keras computes, to {RELATIVE:g}. Received: {largest:.2g} from it")
    return largest


def _check_verdicts(score: NDArray[Any], threshold: np.float32, found: Outputs, name: str) -> None:
    verdicts = found.get("verdict")
    if verdicts is None or verdicts.shape != score.shape:
        raise ModelError(f"{name}: verdict: expected one a reading. Received: {getattr(verdicts, 'shape', None)}")
    near = np.abs(score - threshold) <= RELATIVE * np.maximum(np.abs(score), np.median(np.abs(score)))
    if not np.array_equal(verdicts[~near].astype(bool), (score > threshold)[~near]):
        raise ModelError(f"{name}: verdict: expected score > {float(threshold):g}. Received: others")
