"""FedAvg with server momentum."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero, Decay


@dataclass(frozen=True, slots=True)
class FedAvgM(Part):
    """m ← β m + Δ; x ← x + η m.

    Hsu, Qi, Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, 2019
    (arXiv:1909.06335), section 4.3 (v ← βv + Δw; w ← w - v). Departures: Δ points downhill already, so it is added; a
    server learning rate η (1 in the paper); plain momentum, not Nesterov's.
    """

    lr: AboveZero = 1.0
    momentum: Decay = 0.9

    @property
    def slots(self) -> Mapping[str, float]:
        return {"momentum": 0.0}

    def apply(self, change: np.ndarray, slots: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        momentum = self.momentum * slots["momentum"] + change
        return self.lr * momentum, {"momentum": momentum}
