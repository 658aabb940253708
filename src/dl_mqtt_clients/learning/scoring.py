"""From raw readings to scores: scaler -> core -> score, compiled once for each of a few batch sizes."""

from collections.abc import Callable
from typing import Any, Final

import keras
import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.messages import Task

Outputs = dict[str, NDArray[np.float32]]

# Powers of four: a batch is padded to at most four times its size, and seven programs serve all sizes.
BATCH_SIZES: Final = (1, 4, 16, 64, 256, 1024, 4096)
_MAX_VALUES: Final = 2**22  # a padded batch of wide readings stays under 16 MB


def score_of(scaled: Any, output: Any, *, task: Task, loss: Any) -> Any:
    """Anomaly: mean squared error in scaled space, a row. Supervised: the one output, or 1 - p(class 0). [batch]."""
    flat = keras.ops.reshape(output, (-1, _width(output)))
    if task == "anomaly":
        return keras.ops.mean(keras.ops.square(flat - scaled), axis=-1)
    if getattr(loss, "from_logits", False):
        flat = keras.ops.sigmoid(flat) if flat.shape[-1] == 1 else keras.ops.softmax(flat)
    return flat[:, 0] if flat.shape[-1] == 1 else 1.0 - flat[:, 0]


def compose(
    core: keras.Model, scaler: Callable[[Any], Any], *, features: int, task: Task, loss: Any
) -> tuple[Any, dict[str, Any]]:
    """Symbolic input [batch, features] of raw readings, and the outputs `output` and `score` for it.

    `scaler`: raw readings -> [batch, width], what the core takes when it is flat.
    """
    raw = keras.Input((features,), name="reading", dtype="float32")
    scaled = scaler(raw)
    shape = core.inputs[0].shape[1:]
    output = core(keras.layers.Reshape(shape)(scaled) if len(shape) != 1 else scaled)
    return raw, {"output": output, "score": score_of(scaled, output, task=task, loss=loss)}


class Scorer:
    """Runs a composed model on any number of readings, padded to fixed batch sizes so that nothing recompiles."""

    def __init__(self, model: keras.Model, *, features: int) -> None:
        limit = max(1, _MAX_VALUES // features)
        self.batch_sizes = tuple(size for size in BATCH_SIZES if size <= limit)
        self.shapes: set[tuple[int, ...]] = set()  # that have been compiled
        self._call = _compiled(model)

    def __call__(self, x: NDArray[np.float32]) -> Outputs:
        """[n, features] -> each output's [n, …]."""
        largest = self.batch_sizes[-1]
        if len(x) <= largest:
            return self._padded(x)
        parts = [self._padded(x[start : start + largest]) for start in range(0, len(x), largest)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def size_for(self, rows: int) -> int:
        """The batch size that `rows` readings are padded to."""
        return next((size for size in self.batch_sizes if size >= rows), self.batch_sizes[-1])

    def _padded(self, x: NDArray[np.float32]) -> Outputs:
        rows, size = len(x), self.size_for(len(x))
        if rows != size:
            padded = np.zeros((size, *x.shape[1:]), np.float32)
            padded[:rows] = x
            x = padded
        self.shapes.add(x.shape)
        try:
            outputs = self._call(x)
        except Exception as error:
            raise ModelError(f"core: cannot be computed: {type(error).__name__}: {str(error)[:500]}") from error
        return {name: np.array(value)[:rows] for name, value in outputs.items()}


def _compiled(model: keras.Model) -> Callable[[NDArray[np.float32]], dict[str, Any]]:
    if keras.backend.backend() == "jax":
        return _jax_call(model)
    predict: Callable[[NDArray[np.float32]], dict[str, Any]] = model.predict_on_batch
    return predict


def _jax_call(model: keras.Model) -> Callable[[NDArray[np.float32]], dict[str, Any]]:
    """A jitted call without Keras's bookkeeping of states."""
    import jax  # noqa: PLC0415  # only where it is the backend

    trainable, fixed = model.trainable_variables, model.non_trainable_variables

    def call(trainable_values: list[Any], fixed_values: list[Any], x: Any) -> dict[str, Any]:
        outputs: dict[str, Any] = model.stateless_call(trainable_values, fixed_values, x, training=False)[0]
        return outputs

    compiled = jax.jit(call)

    def run(x: NDArray[np.float32]) -> dict[str, Any]:
        outputs: dict[str, Any] = compiled([v.value for v in trainable], [v.value for v in fixed], x)
        return outputs

    return run


def _width(tensor: Any) -> int:
    return int(np.prod(tensor.shape[1:]))
