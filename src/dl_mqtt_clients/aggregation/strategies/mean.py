"""The mean of the updates, weighted by examples or not."""

from dataclasses import dataclass
from typing import ClassVar

from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part, Share


@dataclass(frozen=True, slots=True)
class Mean(Part):
    """Δ = Σ n_k Δ_k / Σ n_k.

    McMahan et al., AISTATS 2017 (arXiv:1602.05629), Algorithm 1. Departure: n_k is capped by the manager.
    """

    def weigh(self, update: Facts) -> Share:
        return Share(update.examples)


@dataclass(frozen=True, slots=True)
class UniformMean(Part):
    """Δ = Σ Δ_k / K: every node counts the same, as in Reddi et al. 2021, Algorithm 2, line 11."""

    max_weight: ClassVar[float] = 1.0

    def weigh(self, update: Facts) -> Share:  # noqa: ARG002 - all the same
        return Share(1)
