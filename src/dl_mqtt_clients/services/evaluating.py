"""A trainer's word on a version: sums over its held-out readings, scored with it and with the best before it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dl_mqtt_clients.aggregation.evaluation import Sums
from dl_mqtt_clients.data.window import Snapshot
from dl_mqtt_clients.wire.messages import Manifest, Statistics

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel


class Evaluating:
    """Once a version; again when a manager may have lost what we told it. `send(statistics)` says whether it left."""

    def __init__(self, send: Callable[[Statistics], bool]) -> None:
        self._send = send
        self._told = ("", False)  # the version, and whether there were readings to score

    def again(self) -> None:
        self._told = ("", False)

    def give_up(self, version: str) -> None:
        """No scoring of a version that fails, again with every reading that comes."""
        self._told = (version, True)

    def evaluate(
        self,
        manifest: Manifest,
        model: "FederatedModel",
        heldout: Snapshot,
        *,
        weights: Sequence[np.ndarray],
        best: Sequence[np.ndarray] | None,
    ) -> None:
        """Who holds no readings out yet says so too: the manager waits for all."""
        told = (manifest.version, bool(len(heldout)))
        if self._told in (told, (manifest.version, True)):
            return
        of_best = None if best is None else _found(model, best, heldout)
        statistics = Statistics(
            version=manifest.version,
            found=_found(model, weights, heldout).to_message(),
            best=None if of_best is None else manifest.best,
            found_of_best=None if of_best is None else of_best.to_message(),
        )
        if self._send(statistics):
            self._told = told


def _found(model: "FederatedModel", weights: Sequence[np.ndarray], heldout: Snapshot) -> Sums:
    if not len(heldout):
        return Sums.of(np.zeros(0, np.float32), np.zeros(0, np.int8))
    model.set_weights(weights)
    return Sums.of(model.scores(heldout.x), heldout.labels)
