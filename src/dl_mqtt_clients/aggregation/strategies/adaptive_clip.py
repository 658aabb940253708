"""Norm clipping with a bound that follows a quantile of the norms."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from dl_mqtt_clients.aggregation.strategies.clip_norm import clipped
from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero, Range


@dataclass(frozen=True, slots=True)
class AdaptiveClip(Part):
    """Δ_k ← Δ_k · min(1, C / ‖Δ_k‖₂), then C ← C · exp(-η (b̄ - γ)), b̄ the share of updates with ‖Δ_k‖₂ ≤ C.

    Andrew et al., Differentially Private Learning with Adaptive Clipping, NeurIPS 2021 (arXiv:1905.03871),
    Algorithm 1; defaults as there. Departure: b̄ is the exact share, without noise: the manager sees the norms anyway.
    """

    bound: AboveZero = 0.1  # C before the first round
    quantile: Annotated[float, Range(least=0, most=1)] = 0.5  # γ
    lr: AboveZero = 0.2  # η

    def initial(self) -> Mapping[str, float]:
        return {"bound": self.bound}

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:  # noqa: ARG002
        return clipped(norm(), state["bound"])

    def next(self, state: Mapping[str, float], norms: Sequence[float]) -> Mapping[str, float]:
        within = sum(norm <= state["bound"] for norm in norms) / len(norms)
        return {"bound": state["bound"] * math.exp(-self.lr * (within - self.quantile))}
