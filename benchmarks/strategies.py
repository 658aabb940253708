"""Honest fleets: AUROC on KDDTest+ by strategy and by how the data lie, after 5 and after 20 rounds.

Does clipping leave an honest run as it is? Who helps when nodes are unlike, or of unequal size? NSL-KDD's normal rows,
the same model and seed everywhere, one epoch a round. Writes artifacts/bench/strategies.md, which the documentation
shows.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import one_process
from benchmarks.one_process import Node, data

ROUNDS = (5, 20)
FILE = Path("artifacts/bench/strategies.md")
STRATEGIES = (
    "FedAvg",
    "FedAvg @ MedianClip(2)",
    "FedAvg @ MedianClip",
    "FedAvg @ AdaptiveClip",
    "UniformMean",
    "FedNova",
    "Median",
    "TrimmedMean(0.2)",
    "FedAvgM(momentum=0.5)",
    "FedAdam(lr=0.01)",
    "FedYogi(lr=0.01)",
)


def fleets() -> dict[str, list[Node]]:
    from dl_mqtt_clients.data.partition import partition

    normal = data().train.normal()
    services = partition(normal, ("web", "mail", "files", "other"), by="group")
    shares = {
        "20 alike": partition(normal, 20),
        "20 unlike": partition(normal, 20, by="dirichlet", alpha=0.5),
        "4 services": services,
        "1 large of 3": _sized((20, 1, 1)),
        "2 large of 10": _sized((10, 10, *[1] * 8)),
    }
    return {
        fleet: [Node(f"n{k:02d}", normal.x[rows]) for k, rows in enumerate(parts)] for fleet, parts in shares.items()
    }


def _sized(parts: Sequence[int]) -> list[np.ndarray]:
    """Random rows, so many parts of the whole each."""
    rows = np.random.default_rng(0).permutation(len(data().train.normal().x))
    return np.split(rows, (np.cumsum(parts)[:-1] / sum(parts) * len(rows)).astype(int))


def measure(case: tuple[str, str]) -> list[float]:
    """AUROC after each of ROUNDS."""
    strategy, fleet = case
    course = one_process.run(fleets()[fleet], strategy=strategy, rounds=ROUNDS[-1], marks=ROUNDS)
    return list(course.marks.values())


def run() -> list[dict[str, object]]:
    names = list(fleets())
    cases = list(product(STRATEGIES, names))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_process.one_thread) as pool:
        found = dict(zip(cases, pool.map(measure, cases), strict=True))
    lines = [" | ".join(["| strategy", *names]) + " |", "|---" * (len(names) + 1) + "|"]
    for strategy in STRATEGIES:
        cells = [" → ".join(f"{auroc:.3f}" for auroc in found[strategy, fleet]) for fleet in names]
        lines.append(" | ".join([f"| `{strategy}`", *cells]) + " |")
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [
        _row(f"{fleet}: {strategy}", found[strategy, fleet][-1], found["FedAvg", fleet][-1])
        for strategy, fleet in cases
    ]


def _row(what: str, measured: float, against: float) -> dict[str, object]:
    return {
        "what": what, "measured": round(measured, 4), "against": round(against, 4),
        "ratio": f"{measured - against:+.4f}",
    }  # fmt: skip
