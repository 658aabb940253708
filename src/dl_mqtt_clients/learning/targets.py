"""What a core is trained to put out: its own scaled input, or labels in the form its loss wants."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

Array = NDArray[Any]


def targets(model: "FederatedModel", inputs: Array, y: Array | None) -> Array:
    """Targets for scaled inputs [n, …]: the inputs in the output's shape, or labels.

    Labels [n] become [n, 1] for one output, class numbers for a sparse loss, one-hot rows for k outputs.
    """
    shape = model.core.outputs[0].shape[1:]
    if model.task == "anomaly":
        same = inputs.shape[1:] == tuple(shape)
        return inputs if same else inputs.reshape(len(inputs), *shape)
    if y is None:
        raise ModelError("labels: expected one a reading for task supervised. Received: none")
    if _is_sparse(model.core.loss):
        return _classes(y.ravel() if y.size == len(y) else y, shape[-1])
    if y.ndim == 1 and shape[-1] > 1:
        return np.eye(shape[-1], dtype=np.float32)[_classes(y, shape[-1])]
    try:
        return y.astype(np.float32).reshape(len(y), *shape)
    except (ValueError, TypeError) as error:
        raise ModelError(f"labels: expected shape [n, {shape}]. Received: {y.shape}, {y.dtype}") from error


def _is_sparse(loss: Any) -> bool:
    name = loss if isinstance(loss, str) else getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return "sparse" in str(name).lower()


def _classes(y: Array, k: int) -> NDArray[np.int32]:
    try:
        classes = y.astype(np.int32)
        fits = y.ndim == 1 and bool(((classes == y) & (classes >= 0) & (classes < k)).all())
    except (ValueError, TypeError):
        fits = False
    if not fits:
        raise ModelError(f"labels: expected class numbers 0 to {k - 1}. Received: others")
    return classes
