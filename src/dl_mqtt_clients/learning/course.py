"""The steps of one fit: passes over the window in an order that is one on every backend, until all agreed are made."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.plateau import Patience, Plateau
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.wire.messages import Training

Array = NDArray[Any]
OnBatch = Callable[[float], bool]


class Course:
    """`loss`: mean of the last pass (of its part) · `epochs`: whole passes · `done`: steps · `stopped`: by on_batch."""

    def __init__(
        self, steps: BatchSteps, x: Array, y: Array, training: Training, on_batch: OnBatch, *, max_steps: int | None
    ) -> None:
        self.steps, self.x, self.y, self.training, self.on_batch = steps, x, y, training, on_batch
        self.batch = min(training.batch_size, len(x))
        agreed = training.steps or training.epochs * (len(x) // self.batch)
        self.planned = agreed if max_steps is None else min(agreed, max_steps)
        self.loss: float | None = None
        self.rates: list[tuple[int, float]] = []  # (steps, learning rate) of each pass, where it was asked for
        self.epochs = self.done = 0
        self.stopped = False

    def run(self, seed: int, *, drift: Sequence[Array] = (), note_rates: bool = False) -> None:
        training = self.training
        self.steps.start(learning_rate=training.learning_rate, seed=seed, drift=drift)
        # The order comes from NumPy, so that it is one on every backend.
        order = np.random.default_rng(seed)
        patience = Patience()
        plateau = Plateau(self.steps.learning_rate()) if training.reduce_on_plateau else None
        while self.done < self.planned and not self.stopped:
            before, rate = self.done, self.steps.learning_rate() if note_rates else 0.0
            self._pass(order.permutation(len(self.x)))
            self.rates.append((self.done - before, rate))
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

    def _pass(self, order: NDArray[np.int64]) -> None:
        """Over the whole window, or as far as is planned."""
        batches = order.reshape(-1, self.batch)
        start, end, together = 0, min(len(batches), self.planned - self.done), self.steps.together(self.batch)
        while start < end and not self.stopped:
            count = together if start + together <= end else 1
            self._step(batches[start : start + count])
            start += count
            self.done += count
            self.stopped = not self.on_batch(self.done / self.planned)
        self.loss = self.steps.mean_loss()
        self.epochs += start == len(batches) and not self.stopped

    def _step(self, rows: NDArray[np.int64]) -> None:
        x = self.x[rows]
        y = x if self.y is self.x else self.y[rows]
        try:
            self.steps.step(x, y)
        except Exception as error:
            raise ModelError(f"core: cannot be trained: {type(error).__name__}: {str(error)[:500]}") from error
