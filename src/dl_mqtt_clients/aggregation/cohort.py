"""Who takes part in a round, drawn without a message: everybody computes the same hash."""

import hashlib


def draw(seed: str, *, round_number: int, attempt: int, node: str) -> float:
    """Uniform in [0, 1]: uint64(SHA-256(seed, round, attempt, node)[:8]) / 2⁶⁴."""
    text = f"{seed}\n{round_number}\n{attempt}\n{node}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2.0**64


def is_drawn(seed: str, *, round_number: int, attempt: int, node: str, fraction: float) -> bool:
    """Whether `node` belongs to the cohort; a fraction of 1 takes everybody."""
    return fraction >= 1.0 or draw(seed, round_number=round_number, attempt=attempt, node=node) < fraction


def fit_seed(seed: str, *, round_number: int, attempt: int, node: str) -> int:
    """Seed of a local fit, 32 bits: the same node repeats the same fit, two nodes share one as good as never."""
    text = f"fit\n{seed}\n{round_number}\n{attempt}\n{node}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big")
