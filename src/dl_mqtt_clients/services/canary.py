"""A canary: some predictors score with a candidate before all do, and their share of anomalies is compared.

Each predictor draws from the version's hash whether it is one; nobody is told by name.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from dl_mqtt_clients.aggregation.cohort import is_drawn
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus


def is_canary(node: str, version: str, share: float) -> bool:
    """Whether a predictor takes a candidate before it is promoted."""
    return is_drawn(version, round_number=0, attempt=1, node=node, fraction=share)


@dataclass(frozen=True, slots=True)
class Alerts:
    """Readings scored with a version, and those above the threshold."""

    scored: int
    anomalies: int

    @classmethod
    def of(cls, statuses: Iterable[NodeStatus]) -> "Alerts":
        told = [(s.version_scored, s.version_anomalies) for s in statuses]
        return cls(sum(s for s, _ in told), sum(a for _, a in told))

    @property
    def rate(self) -> float:
        return self.anomalies / self.scored if self.scored else 0.0


def compare(candidate: Manifest, statuses: Iterable[NodeStatus], *, tolerance: float) -> tuple[bool, str]:
    """Whether the candidate may go to all, and why. Without readings on both sides nothing speaks against it."""
    heard = [s for s in statuses if s.version is not None]
    canaries = Alerts.of(s for s in heard if s.version == candidate.version)
    others = Alerts.of(s for s in heard if s.version != candidate.version)
    if not canaries.scored or not others.scored:
        return True, "canary: no readings to compare"
    words = f"canary: {canaries.rate:.2%} anomalies of {canaries.scored}, the others {others.rate:.2%}"
    return canaries.rate <= others.rate + tolerance, words
