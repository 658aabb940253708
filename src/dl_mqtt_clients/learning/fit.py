"""A local fit: a pure function of (base weights, window, training settings, seed)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.plateau import Patience, Plateau
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.learning.targets import targets
from dl_mqtt_clients.wire.messages import Training

Array = NDArray[Any]
OnBatch = Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fit came to.

    `weights`: whole, in the plan's order · `loss`: mean training loss of the last epoch (of its part, when stopped)
    · `examples`: readings of the window that were used · `epochs`: completed · `steps`: batches · `stopped`: by
    `on_batch`, so not worth offering.
    """

    weights: list[Array]
    loss: float | None
    examples: int
    epochs: int
    steps: int
    stopped: bool


def fit(
    model: FederatedModel,
    base: Sequence[Array],
    x: ArrayLike,
    y: ArrayLike | None,
    *,
    training: Training,
    seed: int,
    on_batch: OnBatch = lambda _progress: True,
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

    Raises:
        ModelError: shapes do not fit, or the loss or a weight is no longer finite.

    """
    model.set_weights(base)
    inputs, wanted = _window(model, x, y, training)
    course = _Course(model.steps, inputs, wanted, training, on_batch)
    try:
        course.run(seed)
        weights = model.get_weights()
        _check_finite(course.loss, weights)
    except BaseException:
        model.set_weights(base)
        raise
    return FitResult(weights, course.loss, len(inputs), course.epochs, course.done, course.stopped)


class _Course:
    """The epochs of one fit."""

    def __init__(self, steps: BatchSteps, x: Array, y: Array, training: Training, on_batch: OnBatch) -> None:
        self.steps, self.x, self.y, self.training, self.on_batch = steps, x, y, training, on_batch
        self.batch = min(training.batch_size, len(x))
        self.planned = training.epochs * (len(x) // self.batch)
        self.loss: float | None = None
        self.epochs = self.done = 0
        self.stopped = False

    def run(self, seed: int) -> None:
        training = self.training
        self.steps.start(learning_rate=training.learning_rate, seed=seed)
        # The order comes from NumPy, so that it is one on every backend.
        order = np.random.default_rng(seed)
        patience = Patience()
        plateau = Plateau(self.steps.learning_rate()) if training.reduce_on_plateau else None
        while self.epochs < training.epochs and self._epoch(order.permutation(len(self.x))):
            loss = self.loss if self.loss is not None else np.nan
            if not np.isfinite(loss):
                break
            if training.early_stopping:
                patience = patience.after(loss, training.early_stopping)
                if patience.is_over(training.early_stopping):
                    break
            if plateau and training.reduce_on_plateau:
                plateau = plateau.after(loss, training.reduce_on_plateau)
                self.steps.set_learning_rate(plateau.learning_rate)
        self.steps.finish()

    def _epoch(self, order: NDArray[np.int64]) -> bool:
        """Whether it was completed."""
        batches = order.reshape(-1, self.batch)
        start, together = 0, self.steps.together(self.batch)
        while start < len(batches):
            count = together if start + together <= len(batches) else 1
            self._step(batches[start : start + count])
            start += count
            self.done += count
            if not self.on_batch(self.done / self.planned):
                self.stopped = True
                break
        self.loss = self.steps.mean_loss()
        self.epochs += not self.stopped
        return not self.stopped

    def _step(self, rows: NDArray[np.int64]) -> None:
        x = self.x[rows]
        y = x if self.y is self.x else self.y[rows]
        try:
            self.steps.step(x, y)
        except Exception as error:
            raise ModelError(f"core: cannot be trained: {type(error).__name__}: {str(error)[:500]}") from error


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
