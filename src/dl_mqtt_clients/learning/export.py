"""`model.keras` for others: plain Keras layers, raw readings in, score (and verdict) out.

`keras.saving.load_model(path)(readings)`, or `.predict(readings)`, gives a dictionary:

    score    [n]     ≥ 0; for `anomaly` the mean squared error in scaled space
    output   [n, …]  the core's own output; for `anomaly` the reconstruction, in scaled space
    verdict  [n]     score > threshold; only where a threshold is known

It is not compiled: training goes on in the federation.
"""

import os
import tempfile
from pathlib import Path
from typing import Any

import keras

from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.learning.scoring import compose
from dl_mqtt_clients.learning.vocabularies import join
from dl_mqtt_clients.wire.messages import Task


class Exporter:
    """Builds the exported model once; only the constants in its layers change from version to version."""

    def __init__(self, core: keras.Model, *, task: Task) -> None:
        self._task, self._loss = task, core.loss
        # The same layers without compile settings: those would be saved as well, and a fresh optimizer does not load.
        self._layers = keras.Model(core.inputs[0], core.outputs[0], name=core.name)
        self._model: dict[bool, keras.Model] = {}

    def save(self, path: Path, *, scaler: ScalerValues, threshold: float | None) -> None:
        """Write to a temporary file beside `path`, then rename: readers see the old file or the new one."""
        model = self.with_constants(scaler, threshold)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Keras insists on the ending, and overwrites only with leave.
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".keras", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            model.save(temporary, overwrite=True)
            temporary.chmod(0o644)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StateError(f"{path}: the model cannot be written: {error}") from error
        finally:
            temporary.unlink(missing_ok=True)

    def with_constants(self, scaler: ScalerValues, threshold: float | None) -> keras.Model:
        judged = threshold is not None
        if judged not in self._model:
            self._model[judged] = self._build(scaler, judged=judged)
        model = self._model[judged]
        # The layers' configuration is what is saved, and read anew by whoever traces a call.
        model.get_layer("scaler_offset").offset = [-float(v) for v in scaler.offset]
        model.get_layer("scaler_scale").scale = [float(v) for v in scaler.scale]
        if scaler.codes.size:
            model.get_layer("vocabularies").offset = [-float(v) for v in scaler.codes.reshape(-1)]
        if threshold is not None:
            model.get_layer("margin").offset = -threshold
        return model

    def _build(self, scaler: ScalerValues, *, judged: bool) -> keras.Model:
        # Two Rescalings do the very arithmetic of `Scaling`; Normalization would clip spreads below 1e-7.
        features, codes = len(scaler.offset), scaler.codes.size
        shift = keras.layers.Rescaling(1.0, offset=[0.0] * features, dtype="float32", name="scaler_offset")
        stretch = keras.layers.Rescaling([1.0] * features, dtype="float32", name="scaler_scale")
        minus = keras.layers.Rescaling(1.0, offset=[0.0] * codes, dtype="float32", name="vocabularies")

        def prepared(x: Any) -> Any:
            scaled = stretch(shift(x))
            return join(scaler.categorical, x, scaled, minus) if codes else scaled

        reading, outputs = compose(self._layers, prepared, features=features, task=self._task, loss=self._loss)
        if judged:
            margin = keras.layers.Rescaling(1.0, offset=0.0, dtype="float32", name="margin")
            outputs["verdict"] = keras.ops.greater(margin(outputs["score"]), 0.0)
        return keras.Model(reading, outputs, name="model")
