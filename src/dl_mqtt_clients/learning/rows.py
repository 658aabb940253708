"""Raw readings as a model takes them. Imports no Keras."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError


def as_readings(x: ArrayLike, *, features: int) -> NDArray[np.float32]:
    """[n, features], float32. ModelError when the shape is another."""
    with np.errstate(over="ignore"):  # beyond 32 bits becomes infinite, and scores so
        rows = np.asarray(x, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] != features:
        raise ModelError(f"readings: expected shape [n, {features}]. Received: {rows.shape}")
    return rows
