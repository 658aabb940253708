"""Stale updates weigh less: for asynchronous rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from dl_mqtt_clients.aggregation.strategies.parts import Facts, Part
from dl_mqtt_clients.aggregation.strategies.ranges import NotNegative


@dataclass(frozen=True, slots=True)
class PolynomialStaleness(Part):
    """Δ_k ← Δ_k · (1 + s)^-a for an update s versions old.

    a = ½ is Nguyen et al., Federated Learning with Buffered Asynchronous Aggregation, AISTATS 2022 (arXiv:2106.06639),
    section 5 (FedBuff), where the buffer is divided by its size, not by the sum of the factors: a buffer of old updates
    moves less. So it is here. The form is Xie, Koyejo, Gupta, Asynchronous Federated Optimization, 2019
    (arXiv:1903.03934), section 5. Departure: statistics are damped too.
    """

    a: NotNegative = 0.5
    statistics: ClassVar[bool] = True
    weighs_staleness: ClassVar[bool] = True

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:  # noqa: ARG002
        return float((1.0 + update.staleness) ** -self.a)


@dataclass(frozen=True, slots=True)
class HingeStaleness(Part):
    """Δ_k ← Δ_k · 1 for s ≤ b, 1 / (a (s - b) + 1) beyond.

    Xie, Koyejo, Gupta, Asynchronous Federated Optimization, 2019 (arXiv:1903.03934), section 5; defaults as there.
    Departures: it multiplies the change instead of the mixing weight α (the same thing for updates that are changes
    from the newest version); statistics are damped too.
    """

    a: NotNegative = 10.0
    b: NotNegative = 4.0
    statistics: ClassVar[bool] = True
    weighs_staleness: ClassVar[bool] = True

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:  # noqa: ARG002
        late = update.staleness - self.b
        return 1.0 if late <= 0 else 1.0 / (self.a * late + 1.0)
