"""Keras optimizers that correct each gradient before they use it: g + mu (w - anchor) + drift.

Anchors and drifts are the optimizer's own variables, so that they go wherever its state goes: through `train_on_batch`
on every backend, and through JAX's compiled calls of many steps, where they are inputs and not constants.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.objectives import FedProx, Objective, Plain, Scaffold

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Correction:
    """Of the trainable weights `places`, as `core.trainable_variables` lists them; the others stay plain."""

    mu: float
    drifts: bool
    places: tuple[int, ...]


def correction_of(objective: Objective, places: Sequence[int]) -> Correction | None:
    """What the optimizer has to do; None: nothing."""
    if isinstance(objective, Plain):
        return None
    mu = objective.mu if isinstance(objective, FedProx) else 0.0
    return Correction(mu=mu, drifts=isinstance(objective, Scaffold), places=tuple(places))


class Corrected:
    """Mixed into an optimizer's class, before it."""

    correction: Correction
    anchors: list[Any]  # one for each trainable weight, or None
    drifts: list[Any]

    def build(self: Any, variables: Sequence[Any]) -> None:
        super().build(variables)  # type: ignore[misc]  # the optimizer's
        held = [v if place in self.correction.places else None for place, v in enumerate(variables)]
        self.anchors = self._beside(held if self.correction.mu else [None] * len(held), "anchor")
        self.drifts = self._beside(held if self.correction.drifts else [None] * len(held), "drift")

    def _beside(self: Any, variables: Sequence[Any], name: str) -> list[Any]:
        return [v if v is None else self.add_variable_from_reference(v, name=name) for v in variables]

    def apply(self: Any, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        corrected = [self._corrected(g, v) for g, v in zip(grads, variables, strict=True)]
        super().apply(corrected, trainable_variables)  # type: ignore[misc]  # the optimizer's

    def _corrected(self: Any, gradient: Any, variable: Any) -> Any:
        if gradient is None:
            return None
        place = self._get_variable_index(variable)
        anchor, drift = self.anchors[place], self.drifts[place]
        terms = [] if drift is None else [drift.value]
        if anchor is not None:
            terms.append(self.correction.mu * (variable.value - anchor.value))
        if not terms:
            return gradient
        gradient = keras.ops.convert_to_tensor(gradient)  # an embedding's is sparse on TensorFlow
        scale = self.loss_scale_factor or 1.0  # gradients come scaled by it
        return gradient + keras.ops.cast(sum(terms[1:], terms[0]) * scale, gradient.dtype)


def corrected(optimizer: keras.optimizers.Optimizer, correction: Correction | None) -> keras.optimizers.Optimizer:
    """The same optimizer, not built yet, correcting gradients. The given one must not be used any more."""
    if correction is None:
        return optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.inner_optimizer = corrected(optimizer.inner_optimizer, correction)
        return optimizer
    kind: Any = type(optimizer)
    made = _kind(kind).from_config(optimizer.get_config())
    made.correction = correction
    return made


def begin(core: keras.Model, drift: Sequence[Array]) -> None:
    """Set the anchors to the core's present weights, and the drifts as given (in the order of `places`)."""
    optimizer = plain_optimizer(core)
    if not isinstance(optimizer, Corrected):
        return
    for weight, anchor in zip(core.trainable_variables, optimizer.anchors, strict=True):
        if anchor is not None:
            anchor.assign(np.array(keras.ops.convert_to_numpy(weight.value)))
    held = [variable for variable in optimizer.drifts if variable is not None]
    if len(drift) != len(held):
        raise ModelError(f"controls: expected {len(held)} arrays. Received: {len(drift)}")
    for variable, value in zip(held, drift, strict=True):
        variable.assign(np.array(value, dtype=np.float32))


def plain_optimizer(core: keras.Model) -> keras.optimizers.Optimizer:
    """The one that makes the steps, without what scales the loss for it."""
    return getattr(core.optimizer, "inner_optimizer", core.optimizer)


@cache
def _kind(optimizer: type) -> Any:
    return type(f"Corrected{optimizer.__name__}", (Corrected, optimizer), {})
