"""The gate before production: is a candidate as good as the best version promoted in its lineage?

Both are scored by each node on the same held-out readings and reported as a pair. The difference a node is

    d = 2 · (candidate - best) / (candidate + best)        of the losses, -2 … 2; near 0 the relative change

and the candidate passes if, over K nodes,

    max(mean(d), median(d)) ≤ tolerance + min(SE, max_noise),   SE = std(d, ddof=1) / √K

- *Paired*, so that hard and easy holdouts cancel, and only what differs between the versions counts.
- *Each node counts alike.* How many readings it has is a node's own word; noise is that between nodes, so nodes are
  the sample; and a small node that suffers should be seen.
- *Mean and median.* The mean sees the few that suffer. A node that lies can lower it by 2/K, but not the median of
  three or more: nothing passes that is worse by more than tolerance + max_noise. It can hold one back, and is named.
- *The noise has a cap.* One node that gets far worse raises mean and SE alike, and would excuse itself without one.
- *The best, not the last*, so that small steps cannot add up. A candidate becomes the best only when it is better by
  more than tolerance and doubt, max(…) < -(tolerance + 2·SE): by chance alone, half of many slightly worse ones look
  better.

AUROC, where a node has labels, may not fall likewise; there d = best - candidate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

_BEYOND_DOUBT: Final = 2.0  # standard errors: 2.3% by chance


@dataclass(frozen=True, slots=True)
class Quality:
    """One node's word on one version, over its held-out readings."""

    loss: float  # mean score, ≥ 0
    auroc: float | None = None  # where it has labels of both kinds


@dataclass(frozen=True, slots=True)
class Change:
    """Paired differences over nodes; above 0 the candidate is worse."""

    mean: float
    median: float
    standard_error: float  # 0 for fewer than two nodes
    nodes: int

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Change":
        n = len(differences)
        mean = math.fsum(differences) / n if n else 0.0
        spread = math.fsum((d - mean) ** 2 for d in differences)
        noise = math.sqrt(spread / (n - 1) / n) if n > 1 else 0.0
        return cls(mean, median(differences) if n else 0.0, noise, n)

    @property
    def worse(self) -> float:
        """What is judged: the larger of mean and median."""
        return max(self.mean, self.median)

    def allowed(self, *, tolerance: float, max_noise: float) -> float:
        return tolerance + min(self.standard_error, max_noise)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a candidate, and why, in words for the history."""

    decision: Literal["promote", "wait", "reject"]
    reason: str
    becomes_best: bool = False  # later candidates are compared with it
    loss: Change | None = None
    auroc: Change | None = None
    worst_node: str = ""  # whose loss grew most


def decide(
    candidate: Mapping[str, Quality],
    best: Mapping[str, Quality] | None,
    *,
    tolerance: float = 0.02,
    auroc_tolerance: float = 0.02,
    max_noise: float = 0.05,
    min_nodes: int = 1,
) -> Verdict:
    """Node -> quality of both versions on the same holdout; `best` None for the first version of a lineage.

    Only nodes that reported the pair count. `tolerance` and `max_noise` are relative (0.02: 2%), AUROC's absolute.
    wait: fewer than `min_nodes` nodes so far; when nobody else will come, the candidate stays `global`.
    """
    paired = sorted(candidate if best is None else candidate.keys() & best.keys())
    if broken := [node for node in sorted(candidate) if not _is_sound(candidate[node])]:
        return Verdict("reject", f"loss or AUROC is not a finite number on {_names(broken)}")
    if len(paired) < min_nodes:
        return Verdict("wait", f"expected at least {min_nodes} nodes. Received: {len(paired)}")
    if best is None:
        return Verdict("promote", "first version of its lineage", becomes_best=True)
    if not paired:
        return Verdict("wait", "no node has scored both versions")
    losses = {node: _relative(candidate[node].loss, best[node].loss) for node in paired}
    loss = Change.of(list(losses.values()))
    auroc = Change.of([fall for node in paired if (fall := _fall(candidate[node], best[node])) is not None])
    is_good, reason = _compare(
        (loss, loss.allowed(tolerance=tolerance, max_noise=max_noise)),
        (auroc, auroc.allowed(tolerance=auroc_tolerance, max_noise=max_noise)),
    )
    doubt = tolerance + _BEYOND_DOUBT * loss.standard_error
    return Verdict(
        "promote" if is_good else "reject",
        reason,
        becomes_best=is_good and loss.worse < -doubt and auroc.worse <= 0,
        loss=loss,
        auroc=auroc if auroc.nodes else None,
        worst_node=max(losses, key=lambda node: (losses[node], node)),
    )


def _compare(loss: tuple[Change, float], auroc: tuple[Change, float]) -> tuple[bool, str]:
    """Changes with what is allowed of each: whether both keep to it, and the words."""
    (change, allowed), (fall, allowed_fall) = loss, auroc
    if change.worse <= allowed and fall.worse > allowed_fall:
        return False, f"AUROC {-fall.worse:+.4f}, at least {-allowed_fall:+.4f} allowed, over {fall.nodes} nodes"
    reason = f"loss {change.worse:+.2%}, at most {allowed:+.2%} allowed, over {change.nodes} nodes"
    return change.worse <= allowed, reason


def _is_sound(quality: Quality) -> bool:
    return math.isfinite(quality.loss) and quality.loss >= 0 and math.isfinite(quality.auroc or 0.0)


def _relative(candidate: float, best: float) -> float:
    """-2 … 2; a best that is no finite number is as bad as can be."""
    if not math.isfinite(best):
        return -2.0
    largest = max(candidate, best, 0.0)
    return 2.0 * (candidate / largest - best / largest) / (candidate / largest + best / largest) if largest else 0.0


def _fall(candidate: Quality, best: Quality) -> float | None:
    """Of the AUROC; None where either is unknown."""
    if candidate.auroc is None or best.auroc is None or not math.isfinite(best.auroc):
        return None
    return best.auroc - candidate.auroc


def _names(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
