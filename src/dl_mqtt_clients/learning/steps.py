"""One training step on a batch, the same numbers on every path: `BatchSteps` anywhere, `JaxSteps` faster on JAX.

Both run the core's own `train_step`, as `fit` does; what is left out are Keras's iterators, logs and callbacks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.fresh import FreshOptimizer

Array = NDArray[Any]
_SMALL = 1024  # values


class BatchSteps:
    """Keras's `train_on_batch`, on every backend: `start`, `step` after `step`, `finish`."""

    def __init__(self, core: keras.Model) -> None:
        self.core = core
        self._fresh = FreshOptimizer(core)
        self._losses: list[float] = []

    def start(self, *, learning_rate: float | None, seed: int) -> None:
        """From the core's present weights, with a fresh optimizer and seeded generators."""
        self._fresh.reset(learning_rate=learning_rate)
        _seed(self.core, seed)
        self._losses.clear()

    def step(self, x: Array, y: Array) -> None:
        self._losses.append(float(self.core.train_on_batch(x, y, return_dict=True)["loss"]))

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


class JaxSteps(BatchSteps):
    """The core's `train_step`, jitted; the state stays on the device from `start` to `finish`."""

    def __init__(self, core: keras.Model) -> None:
        super().__init__(core)
        self._run = _jitted(core)
        self._state: list[list[Any]] = []
        self._pending: list[Any] = []  # losses of this epoch, possibly not computed yet

    def start(self, *, learning_rate: float | None, seed: int) -> None:
        import jax.numpy as jnp  # noqa: PLC0415  # only where it is the backend

        super().start(learning_rate=learning_rate, seed=seed)
        trainable, fixed, optimizer = self._groups()
        # Copies, because the step gives its input buffers to its output. The optimizer's large ones go as they are:
        # they are as big as the model again, and `start` sets them anew.
        self._state = [
            [jnp.array(v.value, copy=True) for v in trainable],
            [jnp.array(v.value, copy=True) for v in fixed],
            [v.value if v.value.size > _SMALL else jnp.array(v.value, copy=True) for v in optimizer],
        ]
        self._pending.clear()

    def step(self, x: Array, y: Array) -> None:
        loss, self._state = self._run(self._state, x, y)
        self._pending.append(loss)
        if len(self._pending) > 2:
            # At most two steps ahead, so that whoever looks in between sees where training is.
            self._pending[-3].block_until_ready()

    def mean_loss(self) -> float:
        losses = np.array([float(loss) for loss in self._pending])
        self._pending.clear()
        return float(losses.mean())

    def set_learning_rate(self, value: float) -> None:
        import jax.numpy as jnp  # noqa: PLC0415

        super().set_learning_rate(value)
        position = self._fresh.learning_rate_position
        self._state[2][position] = jnp.array(value, dtype=self._state[2][position].dtype)

    def finish(self) -> None:
        for group, values in zip(self._groups(), self._state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self._state = []
        super().finish()

    def _groups(self) -> Sequence[Sequence[Any]]:
        core = self.core
        return core.trainable_variables, core.non_trainable_variables, core.optimizer.variables


def make_steps(core: keras.Model) -> BatchSteps:
    """The fastest kind for the backend."""
    return JaxSteps(core) if keras.backend.backend() == "jax" else BatchSteps(core)


def _jitted(core: keras.Model) -> Callable[[list[list[Any]], Array, Array], tuple[Any, list[list[Any]]]]:
    import jax  # noqa: PLC0415

    def run(state: list[list[Any]], x: Any, y: Any) -> tuple[Any, list[list[Any]]]:
        # Metrics begin at zero at each step, so that the loss logged is this batch's.
        zeros = [jax.numpy.zeros(v.shape, v.dtype) for v in core.metrics_variables]
        logs, new = core.train_step((*state, zeros), (x, y))
        return logs["loss"], [list(group) for group in new[:3]]

    jitted: Callable[[list[list[Any]], Array, Array], tuple[Any, list[list[Any]]]]
    jitted = jax.jit(run, donate_argnums=0)
    return jitted


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
