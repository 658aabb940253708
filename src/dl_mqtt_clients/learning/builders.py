"""A ready core for those who bring data and no model: a stack of Dense layers."""

import itertools
from collections.abc import Sequence

import keras

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.messages import Task


def build_core(
    *,
    n_features: int,
    task: Task = "anomaly",
    hidden: Sequence[int] = (64, 16, 64),
    activation: str = "relu",
    output_activation: str | None = None,
    loss: str | None = None,
    learning_rate: float = 1e-3,
    seed: int = 0,
    classes: int = 2,
) -> keras.Model:
    """Dense layers with Adam, compiled: [batch, n_features] in scaled space -> [batch, outputs].

    Args:
        n_features: values a reading, ≥ 1.
        task: `anomaly` puts out the reading again; `supervised` one probability (two classes) or one a class.
        hidden: units of the hidden layers.
        activation: of the hidden layers.
        output_activation: None: linear for `anomaly`, sigmoid or softmax for `supervised`.
        loss: None: mean squared error for `anomaly`, cross-entropy for `supervised`.
        learning_rate: Adam's, > 0.
        seed: of the initial weights; the same seed gives the same model, names included.
        classes: of `supervised`, ≥ 2.

    Raises:
        ModelError: Keras does not take one of these.

    """
    outputs, default_activation, default_loss = _head(task, n_features, classes)
    try:
        seeds = itertools.count(seed)
        layers = [_dense(units, activation, f"hidden_{i}", next(seeds)) for i, units in enumerate(hidden, start=1)]
        layers.append(_dense(outputs, output_activation or default_activation, "output", next(seeds)))
        core = keras.Sequential([keras.Input((n_features,), name="scaled"), *layers], name="core")
        core.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss or default_loss)
    except (ValueError, TypeError) as error:
        raise ModelError(f"model: Keras refuses these settings: {str(error)[:500]}") from error
    return core


def _head(task: Task, n_features: int, classes: int) -> tuple[int, str, str]:
    if task == "anomaly":
        return n_features, "linear", "mean_squared_error"
    if classes < 2:
        raise ModelError(f"classes: expected at least 2. Received: {classes}")
    if classes == 2:
        return 1, "sigmoid", "binary_crossentropy"
    return classes, "softmax", "sparse_categorical_crossentropy"


def _dense(units: int, activation: str, name: str, seed: int) -> keras.layers.Layer:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation=activation, kernel_initializer=initializer, name=name)
