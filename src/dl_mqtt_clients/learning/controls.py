"""SCAFFOLD's controls: what a node's gradients were on average, and how a fit's steps tell them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError

Array = NDArray[Any]
Controls = tuple[Sequence[Array], Sequence[Array]]  # c of all, c_i of the node


@dataclass(frozen=True, slots=True)
class NewControls:
    """What a fit leaves: one float32 array for each trainable that is shared, in the plan's order.

    `own`: c_i⁺, which the node keeps · `change`: c_i⁺ - c_i, which it sends beside its update.
    """

    own: list[NDArray[np.float32]]
    change: list[NDArray[np.float32]]


def check_controls(controls: Controls | None, shapes: Sequence[tuple[int, ...]]) -> Controls:
    """These, or zeros for None, as the first round begins. ModelError when they are others than the trainables."""
    if controls is None:
        zeros = [np.zeros(shape, np.float32) for shape in shapes]
        return zeros, zeros
    for name, arrays in zip(("c", "c_i"), controls, strict=True):
        received = [tuple(np.shape(a)) for a in arrays]
        if received != list(shapes):
            raise ModelError(f"controls: expected {name} of shapes {list(shapes)[:5]}…. Received: {received[:5]}…")
        if not all(np.isfinite(a).all() for a in arrays):
            raise ModelError(f"controls: expected finite values in {name}. Received: NaN or infinity")
    return controls


def drift_of(controls: Controls) -> list[NDArray[np.float32]]:
    """What is added to each gradient: c - c_i."""
    return [np.asarray(c - own, dtype=np.float32) for c, own in zip(*controls, strict=True)]


def new_controls(
    controls: Controls, base: Sequence[Array], weights: Sequence[Array], *, learning_rates: float
) -> NewControls:
    """Option II: c_i⁺ = c_i - c + (base - weights) / K η; `learning_rates` stands for K η."""
    change = [
        ((np.asarray(x, np.float64) - y) / learning_rates - c).astype(np.float32)
        for x, y, c in zip(base, weights, controls[0], strict=True)
    ]
    own = [np.asarray(c_i + d, dtype=np.float32) for c_i, d in zip(controls[1], change, strict=True)]
    return NewControls(own=own, change=change)


def momentum_of(optimizer: keras.optimizers.Optimizer) -> tuple[float, bool]:
    """(momentum, nesterov) of SGD. ModelError for any other optimizer, whose steps are no gradients."""
    if not isinstance(optimizer, keras.optimizers.SGD):
        name = type(optimizer).__name__.removeprefix("Corrected")
        raise ModelError(f"objective: SCAFFOLD expects the optimizer SGD. Received: {name}")
    if optimizer.gradient_accumulation_steps:
        raise ModelError("objective: SCAFFOLD expects a step a batch. Received: SGD with gradient_accumulation_steps")
    if optimizer.momentum >= 1:
        raise ModelError(f"objective: SCAFFOLD expects momentum < 1. Received: {optimizer.momentum}")
    return float(optimizer.momentum), bool(optimizer.nesterov)


def sum_of_rates(rates: ArrayLike, momentum: float, *, nesterov: bool = False) -> float:
    """Σ_s a_s η_s: how much of gradient s is in the weights after the last step; K η for plain SGD.

    a_s = 1 + m + … + m^(K-s) with momentum m (Wang et al., NeurIPS 2020, section 4); Nesterov's has one more term.
    """
    eta = np.asarray(rates, dtype=np.float64)
    terms = np.arange(len(eta), 0, -1) + int(nesterov)  # of each step's geometric series
    return float(((1 - momentum**terms) / (1 - momentum) * eta).sum())
