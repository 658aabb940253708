"""What training does to each weight of a core, found out by watching a training step."""

from collections.abc import Sequence
from typing import Any, Final

import keras
from keras.src.backend import compute_output_spec

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.messages import VariableRole

_ROWS: Final = 2  # of the batch that is watched; more than one, so that no axis is taken for a scalar


def roles_of(core: keras.Model) -> list[VariableRole]:
    """One role for each of `core.weights`: trainable, statistic or frozen.

    `statistic` are the floating-point weights without a gradient that a training step assigns: BatchNorm's while its
    layer is trainable, those of custom layers by what they do. All others without a gradient are frozen.
    """
    trainable = {id(v) for v in core.trainable_variables}
    others = [v for v in core.weights if id(v) not in trainable and _is_float(v)]
    assigned = _assigned(core, others) if others else set()
    return ["trainable" if id(v) in trainable else "statistic" if id(v) in assigned else "frozen" for v in core.weights]


def _rows(taken: Any) -> Any:
    return keras.KerasTensor((_ROWS, *taken.shape[1:]), dtype=taken.dtype)


def _is_float(variable: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(variable.dtype)


def _assigned(core: keras.Model, variables: Sequence[Any]) -> set[int]:
    """The ids of those that a call in training assigns; traced with shapes, nothing is computed or changed."""
    found: set[int] = set()

    def watched(x: Any) -> Any:
        with keras.StatelessScope() as scope:
            output = core(x, training=True)
        found.update(id(v) for v in variables if scope.get_current_value(v) is not None)
        return output

    inputs = [_rows(taken) for taken in getattr(core, "inputs", None) or ()]
    if not inputs:  # a subclass of Model without shapes: no one trains it here, and any of them may move
        return {id(v) for v in variables}
    try:
        compute_output_spec(watched, inputs[0] if len(inputs) == 1 else inputs)
    except Exception as error:
        raise ModelError(f"core: cannot be called: {type(error).__name__}: {str(error)[:500]}") from error
    return found
