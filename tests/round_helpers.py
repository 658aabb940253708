"""What the tests of the round engine share."""

from dl_mqtt_clients.aggregation.rounds import Round, RoundPlan
from dl_mqtt_clients.wire.messages import Offer

BASE = "b" * 64
CHUNK_BYTES = 100


def sha(text: str) -> str:
    """A hash that shows whose it is."""
    return text.encode().hex().ljust(64, "0")[:64]


def plan(**changes) -> RoundPlan:
    values = {
        "round": 5, "attempt": 2, "base": BASE, "seed": "s", "target_updates": 3, "min_updates": 2,
        "max_examples": 1000, "update_bytes": (50, 5000), "chunk_bytes": CHUNK_BYTES, "inline_bytes": 0,
    }  # fmt: skip
    return RoundPlan(**{**values, **changes})


def new_round(*, deadline=100.0, limit=8, stall_s=5.0, plan_=None, **changes) -> Round:
    return Round(plan_ or plan(), deadline=deadline, chunks_in_flight=limit, stall_s=stall_s, **changes)


def offer(node: str, *, chunks: int = 3, **changes) -> Offer:
    values = {
        "round": 5, "attempt": 2, "base": BASE, "sha256": sha(node), "bytes": chunks * CHUNK_BYTES, "examples": 10,
        "metrics": {"loss": 0.5},
    }  # fmt: skip
    return Offer(**{**values, **changes})
