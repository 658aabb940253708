"""FedNova's normalised averaging."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part, Share
from dl_mqtt_clients.aggregation.strategies.ranges import Decay


@dataclass(frozen=True, slots=True)
class FedNova(Part):
    """Δ = τ_eff Σ p_k Δ_k / a_k, p_k = n_k / n, τ_eff = Σ p_k a_k: nodes that made more steps do not pull harder.

    Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS 2020
    (arXiv:2007.07481), equation (8): d_k = G_k a_k / ‖a_k‖₁. a_k stands for ‖a_k‖₁ = τ_k steps of SGD, or with local
    momentum ρ (section 4) (τ_k - ρ (1 - ρ^τ_k) / (1 - ρ)) / (1 - ρ). Departure: for other local optimizers
    (Adam) the steps are counted as if they were SGD's.
    """

    momentum: Decay = 0.0  # ρ of the nodes' SGD

    def weigh(self, update: Facts) -> Share:
        return Share(update.examples, scale=1.0 / self._length(update))

    def factor(self, updates: Sequence[Facts]) -> float:
        """τ_eff; exact sums, so that order does not matter."""
        return math.fsum(u.examples * self._length(u) for u in updates) / sum(u.examples for u in updates)

    def _length(self, update: Facts) -> float:
        """‖a_k‖₁ ≥ 1."""
        steps, rho = max(update.steps, 1), self.momentum
        return float(steps) if not rho else (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
