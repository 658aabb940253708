"""An optimizer as new before every fit, without building one (which would compile again)."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError


class FreshOptimizer:
    """Remembers what the core's optimizer began with: constants without their memory, copies of weights by position."""

    def __init__(self, core: keras.Model) -> None:
        self._optimizer = core.optimizer
        if self._optimizer.built:
            raise ModelError("optimizer: expected one that has not been used. Received: one with a state of its own")
        self._trainable = list(core.trainable_variables)
        held = [_numpy(v) for v in self._trainable]
        # Weights that nothing else equals, to see which of the optimizer's variables begin as copies of them.
        marks = [np.random.default_rng(i).random(v.shape).astype(v.dtype) for i, v in enumerate(held)]
        _assign(self._trainable, marks)
        self._optimizer.build(self._trainable)
        self._variables = list(self._optimizer.variables)
        self._initial = [_remembered(_numpy(v), marks) for v in self._variables]
        _assign(self._trainable, held)

    def reset(self, *, learning_rate: float | None) -> None:
        """Every variable as at the beginning; the learning rate as given, or the model's own."""
        for variable, initial in zip(self._variables, self._initial, strict=True):
            value = _numpy(self._trainable[initial]) if isinstance(initial, int) else np.array(initial)
            variable.assign(value)
        if learning_rate is not None:
            self.set_learning_rate(learning_rate)

    @property
    def learning_rate_position(self) -> int:
        """Where the learning rate stands among the optimizer's variables; ModelError when a schedule gives it."""
        rate = self._optimizer.learning_rate
        for position, variable in enumerate(self._variables):
            if variable is rate:
                return position
        raise ModelError(
            "training.learning_rate and reduce_on_plateau: expected an optimizer with a plain learning rate."
            " Received: one with a schedule"
        )

    def learning_rate(self) -> float:
        return float(_numpy(self._variables[self.learning_rate_position]))

    def set_learning_rate(self, value: float) -> None:
        self._variables[self.learning_rate_position].assign(value)


def _remembered(value: NDArray[Any], marks: Sequence[NDArray[Any]]) -> int | NDArray[Any]:
    for position, mark in enumerate(marks):
        if value.shape == mark.shape and np.array_equal(value, mark):
            return position
    if value.size > 1 and (value == value.flat[0]).all():
        return np.broadcast_to(value.flat[0].copy(), value.shape)
    return value


def _assign(variables: Sequence[Any], values: Sequence[NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _numpy(variable: Any) -> NDArray[Any]:
    return np.array(keras.ops.convert_to_numpy(variable.value))
