"""Norm clipping."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part
from dl_mqtt_clients.aggregation.strategies.ranges import AboveZero


@dataclass(frozen=True, slots=True)
class ClipNorm(Part):
    """Δ_k ← Δ_k · min(1, C / ‖Δ_k‖₂), the norm over all trainables together.

    McMahan et al., Learning Differentially Private Recurrent Language Models, ICLR 2018 (arXiv:1710.06963), section 2
    ("flat clipping"); against poisoning: Sun et al., Can You Really Backdoor Federated Learning?, 2019
    (arXiv:1911.07963), section 3. No departure.
    """

    bound: AboveZero = 1.0  # C

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:  # noqa: ARG002
        return clipped(norm(), self.bound)


def clipped(norm: float, bound: float) -> float:
    """min(1, bound / norm), 1 for a norm of 0; not a number when the norm is none."""
    return 1.0 if norm <= bound else bound / norm
