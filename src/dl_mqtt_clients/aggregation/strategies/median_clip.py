"""Norm clipping at a multiple of the nodes' median norm."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

from dl_mqtt_clients.aggregation.strategies.clip_norm import clipped
from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero


@dataclass(frozen=True, slots=True)
class MedianClip(Part):
    """Δ_k ← Δ_k · min(1, C / ‖Δ_k‖₂), C = factor · median of the last round's ‖Δ_k‖₂ before clipping.

    Geyer, Klein, Nabi, Differentially Private Federated Learning: A Client Level Perspective, 2017 (arXiv:1712.07557),
    Algorithm 1, where C is the median itself and of the same round. Departures: the factor, so that an honest round is
    left as it is; the last round's norms, so that updates are added as they come. A first round, which has no last one,
    waits for its own.
    """

    factor: AboveZero = 3.0
    looks_ahead: ClassVar[bool] = True

    def initial(self) -> Mapping[str, float]:
        return {"bound": math.inf}

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:  # noqa: ARG002
        return clipped(norm(), state["bound"])

    def next(self, state: Mapping[str, float], norms: Sequence[float]) -> Mapping[str, float]:
        return {"bound": self.factor * median(norms) or state["bound"]}  # of updates that are all 0: as before
