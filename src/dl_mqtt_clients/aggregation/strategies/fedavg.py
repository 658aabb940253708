"""FedAvg's server step."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.strategies.parts import Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero


@dataclass(frozen=True, slots=True)
class FedAvg(Part):
    """x ← x + η Δ.

    McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017
    (arXiv:1602.05629), Algorithm 1, where η = 1: x ← Σ n_k x_k / n. Departure: a server learning rate, as in
    Algorithm 1 of Reddi et al. 2021 with ServerOpt = SGD.
    """

    lr: AboveZero = 1.0

    @property
    def slots(self) -> Mapping[str, float]:
        return {}

    def apply(self, change: np.ndarray, slots: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        return (change if self.lr == 1.0 else self.lr * change), slots
