"""What differs between two kept versions, variable by variable."""

import math

import numpy as np

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.messages import Command, Difference, Manifest


def compare(store: Store, order: Command) -> tuple[Difference, ...]:
    """Of `order.version` and `order.other`, or the version it was built on. ModelError when they cannot be compared."""
    if order.version is None:
        raise ModelError("diff: expected a version. Received: none")
    version = _kept(store, order.version)
    if order.other is None and version.base is None:
        raise ModelError(f"diff: expected a second version, as {version.number} has no base. Received: none")
    earlier, later = sorted([version, _kept(store, order.other or version.base or "")], key=lambda m: m.number)
    if [v.shape for v in earlier.variables] != [v.shape for v in later.variables]:
        raise ModelError("diff: expected two versions of the same model. Received: other shapes")
    before, after = store.weights(earlier), store.weights(later)
    return tuple(
        Difference(path=variable.path, role=variable.role, change=_norm(b, a), norm=_norm(b))
        for variable, b, a in zip(later.variables, before, after, strict=True)
    )


def _kept(store: Store, version: str) -> Manifest:
    found = store.version(version)
    if found is None:
        raise ModelError(f"diff: expected a version that is still kept. Received: {version}")
    return found


def _norm(before: np.ndarray, after: np.ndarray | None = None) -> float:
    """Euclidean, of the difference or of the array itself; in double precision, where squares of float32 fit."""
    difference = before.astype(np.float64) if after is None else after.astype(np.float64) - before
    return math.sqrt(float(np.vdot(difference, difference)))
