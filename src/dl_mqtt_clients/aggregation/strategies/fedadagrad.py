"""FedAdagrad."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero, Decay


@dataclass(frozen=True, slots=True)
class FedAdagrad(Part):
    """m ← β₁ m + (1 - β₁) Δ; v ← v + Δ²; x ← x + η m / (√v + τ).

    Reddi et al., Adaptive Federated Optimization, ICLR 2021 (arXiv:2003.00295), Algorithm 2; v₋₁ = τ² (the least the
    paper allows), β₁ = 0 as in its experiments. Departure: moments are stored as float32 between rounds.
    """

    lr: AboveZero = 0.1
    beta_1: Decay = 0.0
    tau: AboveZero = 1e-3

    @property
    def slots(self) -> Mapping[str, float]:
        return {"momentum": 0.0, "variance": self.tau**2}

    def apply(self, change: np.ndarray, slots: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        momentum = self.beta_1 * slots["momentum"] + (1 - self.beta_1) * change
        variance = slots["variance"] + change**2
        return self.lr * momentum / (np.sqrt(variance) + self.tau), {"momentum": momentum, "variance": variance}
