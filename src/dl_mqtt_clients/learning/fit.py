"""A local fit: a pure function of (base weights, window, training settings, seed)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.controls import (
    Controls,
    NewControls,
    check_controls,
    drift_of,
    momentum_of,
    new_controls,
    sum_of_rates,
)
from dl_mqtt_clients.learning.correction import correction_of, plain_optimizer
from dl_mqtt_clients.learning.course import Course, OnBatch
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.objectives import Objective, Scaffold, parse_objective
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.learning.targets import targets
from dl_mqtt_clients.wire.messages import Training

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit came to.

    `weights`: whole, in the plan's order · `loss`: mean training loss of the last pass over the window (of its part,
    when it ended there) · `examples`: readings of the window that were used · `epochs`: whole passes · `steps`:
    batches, FedNova's τ · `stopped`: by `on_batch`, so not worth offering · `controls`: SCAFFOLD's, new.
    """

    weights: list[Array]
    loss: float | None
    examples: int
    epochs: int
    steps: int
    stopped: bool
    controls: NewControls | None = None


def fit(
    model: FederatedModel,
    base: Sequence[Array],
    x: ArrayLike,
    y: ArrayLike | None,
    *,
    training: Training,
    seed: int,
    on_batch: OnBatch = lambda _progress: True,
    objective: Objective | None = None,
    controls: Controls | None = None,
    max_steps: int | None = None,
) -> FitResult:
    """Train `model` from `base` on the newest readings; the same arguments give the same bits on one machine.

    The window is the newest `training.window` readings, cut at its old end to a multiple of the batch size, so that
    all steps have one shape and nothing compiles again; fewer readings than a batch are one batch of their size.

    Args:
        model: holds the trained weights afterwards (the base, when training failed).
        base: the version's weights, in the plan's order.
        x: raw readings [n, features], oldest first.
        y: labels [n] or [n, outputs] for `supervised`, None for `anomaly`.
        training: as the round says.
        seed: of the order of readings and of Dropout and its like; ≥ 0.
        on_batch: called after every batch, or every few where they are quick, with the share done, 0…1; False
            stops.
        objective: None: as `training.objective` says.
        controls: (c, c_i) of SCAFFOLD, one array for each variable of role `trainable`, in the plan's order; None for
            zeros, as before the first round.
        max_steps: the node's own limit, ≥ 1, if it is lower than what was agreed.

    Raises:
        ModelError: shapes do not fit, optimizer and objective do not go together, or the loss or a weight is no longer
            finite.

    """
    if max_steps is not None and max_steps < 1:
        raise ModelError(f"max_steps: expected at least 1. Received: {max_steps}")
    objective = parse_objective(training.objective) if objective is None else objective
    model.set_weights(base)
    inputs, wanted = _window(model, x, y, training)
    steps, controls = _local(model, training, objective, controls)
    course = Course(steps, inputs, wanted, training, on_batch, max_steps=max_steps)
    try:
        course.run(seed, drift=drift_of(controls) if controls else (), note_rates=controls is not None)
        weights = model.keep_frozen(base)
        _check_finite(course.loss, weights)
    except BaseException:
        model.set_weights(base)
        raise
    new = None if controls is None else _new_controls(model, controls, base, weights, course)
    examples = min(len(inputs), course.done * course.batch)
    return FitResult(weights, course.loss, examples, course.epochs, course.done, course.stopped, new)


def _local(
    model: FederatedModel, training: Training, objective: Objective, controls: Controls | None
) -> tuple[BatchSteps, Controls | None]:
    """Steps towards the objective, and its controls where it has any. ModelError when they do not go together."""
    shared = model.positions("trainable")
    steps = model.steps(optimizer=training.optimizer, correction=correction_of(objective, model.places(shared)))
    if isinstance(objective, Scaffold):
        momentum_of(plain_optimizer(model.core))
        return steps, check_controls(controls, [model.variables[p].shape for p in shared])
    if controls is not None:
        raise ModelError(f"controls: expected none for objective {str(objective)!r}. Received: some")
    return steps, None


def _new_controls(
    model: FederatedModel, controls: Controls, base: Sequence[Array], weights: Sequence[Array], course: Course
) -> NewControls:
    momentum, nesterov = momentum_of(plain_optimizer(model.core))
    rates = np.concatenate([np.full(steps, rate) for steps, rate in course.rates])
    shared = model.positions("trainable")
    return new_controls(
        controls,
        [base[p] for p in shared],
        [weights[p] for p in shared],
        learning_rates=sum_of_rates(rates, momentum, nesterov=nesterov),
    )


def _window(model: FederatedModel, x: ArrayLike, y: ArrayLike | None, training: Training) -> tuple[Array, Array]:
    readings = np.asarray(x, dtype=np.float32)
    if not len(readings):
        raise ModelError("readings: expected at least 1 to train on. Received: 0")
    rows = min(len(readings), training.window)
    rows -= rows % training.batch_size if rows > training.batch_size else 0
    inputs = model.scaled(readings[-rows:])
    if not np.isfinite(inputs).all():
        raise ModelError("readings: expected finite values once scaled. Received: NaN or infinity")
    if y is not None and len(np.asarray(y)) != len(readings):
        raise ModelError(f"labels: expected {len(readings)}, one a reading. Received: {len(np.asarray(y))}")
    return inputs, targets(model, inputs, None if y is None else np.asarray(y)[-rows:])


def _check_finite(loss: float | None, weights: Sequence[Array]) -> None:
    if loss is None or not np.isfinite(loss) or not all(np.isfinite(w).all() for w in weights):
        raise ModelError(f"training diverged: expected a finite loss and weights. Received: loss {loss}")
