"""A core as JSON without code, and back: `describe` and `restore`.

Canonical JSON (keys sorted, no spaces), so that equal models have equal bytes and one hash:
`{"core": …, "features": […], "format": 1, "loss": …, "optimizer": …, "task": "anomaly"}`, and `"training"` where
weights are frozen or adapted (see `frozen`), `"categorical": {"columns": […], "size": 32}` where features are words.
"""

import copy
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, get_args

import keras
from keras.src.backend.common import global_state

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning import allow_list
from dl_mqtt_clients.learning.frozen import set_training, training_of
from dl_mqtt_clients.learning.graph import largest_tensor
from dl_mqtt_clients.learning.scaling import required_features
from dl_mqtt_clients.learning.vocabularies import NO_CATEGORIES, Categorical
from dl_mqtt_clients.wire.messages import Task

FORMAT: Final = 1
MAX_BYTES: Final = 16 * 1024 * 1024
MAX_SIZE: Final = 100_000

# Rebuilding from shapes in the description would allocate before the cap; sharing marks are memory addresses.
_LEFT_OUT: Final = ("build_config", "compile_config", "shared_object_id")


@dataclass(frozen=True, slots=True)
class Restored:
    """A compiled core with random weights, and what its description said beside it."""

    core: keras.Model
    task: Task
    features: tuple[str, ...]
    architecture: bytes
    optimizer: dict[str, Any]  # the configuration of the core's own, to make another
    categorical: Categorical


def describe(
    core: keras.Model,
    *,
    task: Task,
    features: Sequence[str],
    categorical: Categorical = NO_CATEGORIES,
    custom_modules: Sequence[str] = (),
) -> bytes:
    """Canonical JSON of a compiled core; ModelError with the reason when another node could not rebuild it."""
    _check_live(core)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras warns of lambdas; we refuse them
            parts = {
                "core": keras.saving.serialize_keras_object(core),
                "optimizer": keras.saving.serialize_keras_object(core.optimizer),
                "loss": keras.saving.serialize_keras_object(keras.losses.get(core.loss)),
            }
            parts["optimizer"]["config"].pop("name", None)  # counts optimizers made in this process
    except Exception as error:
        raise ModelError(f"core: Keras cannot write its configuration: {str(error)[:500]}") from error
    fields = {"format": FORMAT, "task": task, "features": list(features), **_stripped(parts)}
    if (training := training_of(core)) is not None:
        fields["training"] = training
    if categorical.columns:
        fields["categorical"] = {"columns": list(categorical.columns), "size": categorical.size}
    for part in parts:
        allow_list.check(fields[part], place=part, custom_modules=custom_modules)
    _check_normalization(core)
    _check_task(core, task, features, _categorical(fields))
    return _canonical(fields)


def restore(architecture: bytes, *, max_parameters: int = 200_000_000, custom_modules: Sequence[str] = ()) -> Restored:
    """Rebuild a core from its description, in safe mode.

    The JSON is limited and checked against the allow-list before Keras sees it, and its parameters and the values
    of its largest tensor are counted before anything is allocated. ModelError gives the reason.
    """
    fields = _parse(architecture)
    allow_list.import_modules(custom_modules)
    for part in ("core", "optimizer", "loss"):
        allow_list.check(fields[part], place=part, custom_modules=custom_modules)
    check_size(fields["core"], max_parameters, training=fields.get("training"))
    try:
        core = keras.saving.deserialize_keras_object(copy.deepcopy(fields["core"]), safe_mode=True)
        set_training(core, fields.get("training"))
        optimizer = keras.optimizers.get(copy.deepcopy(fields["optimizer"]))
        core.compile(optimizer=optimizer, loss=keras.losses.get(fields["loss"]))
    except Exception as error:  # noqa: BLE001  # Keras raises whatever a hostile configuration leads to
        _refuse(error)
    task, features = fields["task"], tuple(fields["features"])
    categorical = _categorical(fields)
    _check_task(core, task, features, categorical)
    return Restored(core, task, features, architecture, fields["optimizer"], categorical)


def _check_live(core: keras.Model) -> None:
    if not isinstance(core, keras.Model):
        raise ModelError(f"core: expected a keras.Model. Received: {type(core).__name__}")
    if not getattr(core, "compiled", False) or core.optimizer is None or core.loss is None:
        raise ModelError("core: expected a compiled model; call core.compile(optimizer=…, loss=…) first")
    if not isinstance(core, keras.Sequential) and not hasattr(core, "operations"):
        raise ModelError(
            "core: expected a Sequential or Functional model, whose configuration holds its layers."
            f" Received: {type(core).__name__}, a subclass of keras.Model with code of its own"
        )
    if not core.built:
        raise ModelError("core: expected a built model; begin it with keras.Input(shape)")


def _check_task(core: keras.Model, task: Task, features: Sequence[str], categorical: Categorical) -> None:
    if not isinstance(core, keras.Model) or len(core.inputs or ()) != 1 or len(core.outputs or ()) != 1:
        raise ModelError("core: expected a model with one input and one output. Received: others")
    n_inputs = required_features(core.inputs[0].shape[1:])
    n_features, blocks = categorical.features(n_inputs), len(categorical.columns)
    if n_features < max(1, blocks) or not all(0 <= column < n_features for column in categorical.columns):
        raise ModelError(
            f"core: expected an input for each numeric feature and {categorical.size + 1} for each of {blocks}"
            f" categorical ones. Received: {n_inputs} inputs"
        )
    if features and len(features) != n_features:
        raise ModelError(f"features: expected {n_features} names, as the core's input. Received: {len(features)}")
    n_outputs = required_features(core.outputs[0].shape[1:])
    if task == "anomaly" and n_outputs != n_inputs:
        raise ModelError(
            f"core: expected as many outputs as inputs for task anomaly. Received: {n_inputs} -> {n_outputs}"
        )


def _check_normalization(core: keras.Model) -> None:
    for layer in core._flatten_layers():  # noqa: SLF001  # the one way to reach layers inside layers
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            raise ModelError(
                f"core.{layer.name}: an adapted Normalization ignores weights that are set later, so nodes would"
                " not scale; leave it out and give a scaler"
            )


def _stripped(value: Any) -> Any:
    """JSON as it will be parsed, without the keys that say nothing or too much."""
    if isinstance(value, dict):
        kept = {str(k): _stripped(v) for k, v in value.items() if k not in _LEFT_OUT}
        return _public(kept) if "class_name" in kept else kept
    if isinstance(value, (list, tuple)):
        return [_stripped(v) for v in value]
    return value


def _public(config: dict[str, Any]) -> dict[str, Any]:
    """A backend's own optimizer class (PyTorch's) under the name that every backend knows."""
    if str(config.get("module")).startswith("keras.src.backend."):
        return {**config, "module": "keras.optimizers", "registered_name": None}
    return config


def _canonical(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _parse(architecture: bytes) -> dict[str, Any]:
    if len(architecture) > MAX_BYTES:
        raise ModelError(f"architecture: expected at most {MAX_BYTES} bytes. Received: {len(architecture)}")
    try:
        fields = json.loads(architecture)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"architecture: expected JSON. Received: {str(error)[:200]}") from error
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        received = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        raise ModelError(f"architecture: expected format {FORMAT}. Received: {str(received)[:64]!r}")
    if fields.get("task") not in get_args(Task):
        raise ModelError(f"architecture.task: expected {' or '.join(get_args(Task))}. Received: another")
    names = fields.get("features")
    if not isinstance(names, list) or not all(isinstance(n, str) and len(n) <= 2000 for n in names):
        raise ModelError("architecture.features: expected a list of names. Received: another")
    if not isinstance(fields.get("core"), dict) or not fields.get("optimizer") or not fields.get("loss"):
        raise ModelError("architecture: expected core, optimizer and loss. Received: not all of them")
    return {k: _stripped(v) for k, v in fields.items()}


def _categorical(fields: dict[str, Any]) -> Categorical:
    """ModelError when it is none; untrusted."""
    given = fields.get("categorical")
    if given is None:
        return NO_CATEGORIES
    columns, size = (given.get("columns"), given.get("size")) if isinstance(given, dict) else (None, None)
    rising = sorted({c for c in columns if type(c) is int}) if isinstance(columns, list) else []
    if not rising or rising != columns or type(size) is not int or not 1 <= size <= MAX_SIZE:
        raise ModelError(
            f"architecture.categorical: expected rising columns and a size of 1 to {MAX_SIZE}. Received: others"
        )
    return Categorical(tuple(rising), size)


def check_size(config: dict[str, Any], max_parameters: int, *, training: object = None) -> None:
    """Build once with variables that are only shapes, and count those."""
    before = global_state.get_global_attribute("uninitialized_variables")
    global_state.set_global_attribute("uninitialized_variables", [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            shapes = _model(keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True))
            set_training(shapes, training)
        # All that were created, reachable from the model or not: a layer left unconnected allocates as well.
        created = list(global_state.get_global_attribute("uninitialized_variables") or ())
    except Exception as error:  # noqa: BLE001  # see restore
        _refuse(error)
    finally:
        global_state.set_global_attribute("uninitialized_variables", before or [])
    parameters = sum(math.prod(v.shape) for v in created)
    if parameters > max_parameters:
        raise ModelError(f"core: expected at most {max_parameters} parameters. Received: {parameters}")
    largest = largest_tensor(shapes)
    if largest > max_parameters:
        raise ModelError(f"core: expected at most {max_parameters} values a tensor and row. Received: {largest}")


def _model(rebuilt: Any) -> keras.Model:
    if not isinstance(rebuilt, keras.Model):
        raise TypeError(f"expected a model. Received: {type(rebuilt).__name__}")
    return rebuilt


def _refuse(error: Exception) -> NoReturn:
    if isinstance(error, ModelError):
        raise error
    # Keras repeats the whole configuration at each level; the cause comes last.
    cause = str(error).rpartition("Exception encountered: ")[2]
    raise ModelError(f"core: Keras cannot rebuild it: {type(error).__name__}: {cause[:500]}") from error
