"""Training steps on batches, the same numbers on every path: `BatchSteps` anywhere, `JaxSteps` faster on JAX.

Both run the core's own `train_step`, as `fit` does; what is left out are Keras's iterators, logs and callbacks.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.correction import begin
from dl_mqtt_clients.learning.fresh import FreshOptimizer

Array = NDArray[Any]


class BatchSteps:
    """Keras's `train_on_batch`, on every backend: `start`, `step` after `step`, `finish`."""

    def __init__(self, core: keras.Model) -> None:
        self.core = core
        self._fresh = FreshOptimizer(core)
        self._losses: list[float] = []

    def start(self, *, learning_rate: float | None, seed: int, drift: Sequence[Array] = ()) -> None:
        """From the core's present weights, with a fresh optimizer and seeded generators.

        `drift`: what a corrected optimizer adds to each gradient, where it does.
        """
        self._fresh.reset(learning_rate=learning_rate)
        begin(self.core, drift)
        _seed(self.core, seed)
        self._losses.clear()

    def together(self, batch: int) -> int:
        """How many batches of this size `step` takes at once: as many as are done in well under 50 ms."""
        del batch
        return 1

    def step(self, x: Array, y: Array) -> None:
        """Train on k batches in turn: [k, batch, …] ×2; k is `together` or 1."""
        for inputs, wanted in zip(x, y, strict=True):
            self._losses.append(float(self.core.train_on_batch(inputs, wanted, return_dict=True)["loss"]))

    def mean_loss(self) -> float:
        """Mean over the steps since the last call; waits for them."""
        losses = np.array(self._losses)
        self._losses.clear()
        return float(losses.mean())

    def learning_rate(self) -> float:
        """The one that `start` set."""
        return self._fresh.learning_rate()

    def set_learning_rate(self, value: float) -> None:
        self._fresh.set_learning_rate(value)

    def finish(self) -> None:
        """The core holds the trained weights from here on."""
        self.core.optimizer.finalize_variable_values(self.core.trainable_variables)


def make_steps(core: keras.Model) -> BatchSteps:
    """The fastest kind for the backend."""
    if keras.backend.backend() == "jax":
        from dl_mqtt_clients.learning.jax_steps import JaxSteps  # noqa: PLC0415  # imports JAX

        return JaxSteps(core)
    return BatchSteps(core)


def _seed(core: keras.Model, seed: int) -> None:
    """Dropout and its like draw the same numbers after the same seed (on one backend)."""
    weights = {id(w) for w in core.weights}
    states = [v for v in core.variables if id(v) not in weights]
    for state, child in zip(states, np.random.SeedSequence(seed).spawn(len(states)), strict=True):
        if tuple(state.shape) != (2,):
            raise ModelError(f"core: expected a seed of shape (2,) at {state.path}. Received: {state.shape}")
        state.assign(np.array([child.generate_state(1)[0] >> 1, 0], dtype=state.dtype))
    if keras.backend.backend() == "torch":
        import torch  # noqa: PLC0415

        # Keras's Dropout without a seed of its own draws from PyTorch's global generator, not from its state.
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
