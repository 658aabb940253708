"""A model as a file for other programs: ONNX, LiteRT (`.tflite`) or TensorFlow's SavedModel (a folder).

All take raw readings [batch, features] (float32) and give `score` [batch] and, where a threshold is known, `verdict`
[batch]: scaler and threshold are constants inside. A file is compared with Keras before it gets its name.
"""

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError, StateError
from dl_mqtt_clients.learning.export_check import Outputs, check_same
from dl_mqtt_clients.learning.export_format import Format, format_of
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.onnx_file import standalone
from dl_mqtt_clients.learning.onnx_graph import make_graph
from dl_mqtt_clients.learning.onnx_model import OnnxModel

FACTS: Final = "fedlearn.json"  # in the folder of a SavedModel; beside a LiteRT file with its name before

_Run = Callable[[NDArray[np.float32]], Outputs]


def export_file(
    model: FederatedModel,
    path: Path,
    *,
    threshold: float | None,
    facts: Mapping[str, str],
    custom_modules: tuple[str, ...] = (),
) -> float:
    """Write the model to `path`, whose ending says the format, and compare it with Keras.

    Args:
        model: with the weights to export.
        path: an older file of this name is replaced, once the new one is known to be right.
        threshold: None: the file gives no verdict.
        facts: what is known of the version; goes along.
        custom_modules: as for `rebuild`.

    Returns:
        The largest relative difference from Keras that was seen.

    Raises:
        ModelError: it cannot be converted, or computes something else than Keras; nothing is left of it then.
        StateError: it cannot be written.

    """
    kind = format_of(path)
    names, categorical = json.dumps(list(model.features), ensure_ascii=False), json.dumps(model.categorical.columns)
    facts = {"task": model.task, "features": names, "categorical": categorical, **facts}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent) as folder:
            made = Path(folder) / path.name
            if kind == "onnx":
                run = _onnx(model, made, threshold, facts, custom_modules)
            else:
                run = _by_tensorflow(model, made, threshold, facts, kind)
            difference = check_same(model, run, threshold=threshold, name=str(path))
            _take_place(made, path)
    except OSError as error:
        raise StateError(f"{path}: the model cannot be written: {error}") from error
    return difference


def _take_place(made: Path, path: Path) -> None:
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ModelError(f"{path}: expected a new name, or a SavedModel's. Received: a folder of another kind")
        shutil.rmtree(path)
    made.replace(path)
    beside = made.with_name(f"{made.name}.{FACTS}")
    if beside.exists():
        beside.replace(path.with_name(beside.name))


def _onnx(
    model: FederatedModel, path: Path, threshold: float | None, facts: Mapping[str, str], modules: tuple[str, ...]
) -> _Run:
    graph = make_graph(model.architecture, max_parameters=model.parameters, custom_modules=modules)
    path.write_bytes(standalone(graph, model.get_weights(), threshold=threshold, facts=facts))
    return OnnxModel(path.read_bytes(), task=model.task).outputs


def _by_tensorflow(
    model: FederatedModel, path: Path, threshold: float | None, facts: Mapping[str, str], kind: Format
) -> _Run:
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ModelError(f"{kind}: expected Keras on tensorflow, which alone writes it. Received: {backend}")
    composed = model.for_others(threshold=threshold)
    formats = {"litert": "litert", "saved_model": "tf_saved_model"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            composed.export(str(path), format=formats[kind], verbose=False)
    except Exception as error:
        raise ModelError(f"{kind}: Keras cannot write it: {type(error).__name__}: {str(error)[:500]}") from error
    known = {**facts, **({} if threshold is None else {"threshold": repr(threshold)})}
    beside = path / FACTS if path.is_dir() else path.with_name(f"{path.name}.{FACTS}")
    beside.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return _saved_model(path) if kind == "saved_model" else _litert(path)


def _saved_model(path: Path) -> _Run:
    import tensorflow as tf  # noqa: PLC0415 - its own format

    loaded: Any = tf.saved_model.load(str(path))

    def run(x: NDArray[np.float32]) -> Outputs:
        return {name: value.numpy() for name, value in loaded.serve(x).items()}

    return run


def _litert(path: Path) -> _Run:
    import tensorflow as tf  # noqa: PLC0415 - its own format

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the interpreter has another package now
        interpreter = tf.lite.Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner()
    (reading,) = runner.get_input_details()

    def run(x: NDArray[np.float32]) -> Outputs:
        found: Outputs = runner(**{reading: x})
        return found

    return run
