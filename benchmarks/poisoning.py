"""Lying nodes: AUROC on KDDTest+ by strategy, by what the liars send, and by how many they are.

Twenty nodes with equal, random shares of NSL-KDD's normal rows; 12 rounds (a clean run has levelled off by then), one
epoch each. The table says who falls more than 0.02 below the clean FedAvg run. Two more, smaller: liars who also claim
the most examples a manager lets them have, and nodes that see other services each (the clean run is then the hard one).
About five minutes on two cores. Writes artifacts/bench/poisoning.{md,svg}, which the documentation shows.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks import one_process
from benchmarks.one_process import MAX_EXAMPLES, Change, Course, Lie, Node, data, untrained_auroc

NODES, ROUNDS = 20, 12
LIARS = (2, 4, 6, 8)  # of 20: 10, 20, 30, 40 %
TOLERANCE = 0.02
BOUND = 2.0  # above every honest update of the clean run: see `honest norms` in the output
FOLDER = Path("artifacts/bench")

STRATEGIES = (
    "FedAvg",
    f"FedAvg @ ClipNorm({BOUND})",
    f"FedAvg @ AdaptiveClip(bound={BOUND})",
    "FedAvg @ MedianClip",
    "Median",
    "TrimmedMean(0.2)",
    "TrimmedMean(0.4)",
    "Krum(f=8)",
    "MultiKrum(f=8, m=12)",
    "Bulyan(f=4)",
)
BOUNDED = ("FedAvg", "FedAvg @ MedianClip", "UniformMean", "UniformMean @ MedianClip", "Median")
HELD = {"Median", "TrimmedMean(0.2)", "TrimmedMean(0.4)", "Krum(f=8)", "MultiKrum(f=8, m=12)", "Bulyan(f=4)"}


def scaled(factor: float) -> Lie:
    return lambda change, _all, _rng: [factor * c for c in change]


def gaussian(change: Change, _all: Sequence[Change], rng: np.random.Generator) -> Change:
    """Deviation 1 a weight: about a hundred times an honest update's norm."""
    return [rng.normal(size=c.shape) for c in change]


def within_the_spread(_change: Change, everybody: Sequence[Change], _rng: np.random.Generator) -> Change:
    """Mean - 1.5 deviations of everybody's honest change, value by value: a lie that hides among the honest.

    Baruch, Baruch, Goldberg, A Little Is Enough, NeurIPS 2019 (arXiv:1902.06156), Algorithm 3; liars who know all.
    """
    stacks = [np.stack(arrays) for arrays in zip(*everybody, strict=True)]
    return [stack.mean(axis=0) - 1.5 * stack.std(axis=0) for stack in stacks]


ATTACKS: dict[str, Lie | None] = {
    "sign-flipped": scaled(-1),
    "sign-flipped × 10": scaled(-10),
    "scaled × 10": scaled(10),
    "scaled × 100": scaled(100),
    "Gaussian": gaussian,
    "label-flipped": None,  # an honest fit, on attacks that are called normal
    "within the spread": within_the_spread,
}
ON_UNLIKE = ("sign-flipped × 10", "label-flipped", "within the spread")


@dataclass(frozen=True)
class Case:
    strategy: str
    attack: str = ""
    liars: int = 0
    split: str = "even"
    claims: int = 0  # examples a liar says it has

    def nodes(self) -> list[Node]:
        return [self._liar(k, x) if k < self.liars else Node(f"n{k:02d}", x) for k, x in enumerate(_shards(self.split))]

    def _liar(self, k: int, honest: np.ndarray) -> Node:
        lie = ATTACKS[self.attack]
        return Node(f"n{k:02d}", honest if lie else _attacks(k, len(honest)), lie, self.claims)


def _shards(split: str) -> list[np.ndarray]:
    from dl_mqtt_clients.data.partition import partition

    normal = data().train.normal()
    parts = partition(normal, NODES) if split == "even" else partition(normal, NODES, by="dirichlet", alpha=0.5)
    return [normal.x[rows] for rows in parts]


def _attacks(k: int, count: int) -> np.ndarray:
    """Node k's share of the training rows that are attacks."""
    rows = data().train.x[data().train.y == 1][k::NODES]
    return rows[:count]


def measure(case: Case) -> Course:
    return one_process.run(case.nodes(), strategy=case.strategy, rounds=ROUNDS)


# ---- the runs ------------------------------------------------------------------------------------------------


def run() -> list[dict[str, object]]:
    began = time.time()
    table = [Case(s) for s in STRATEGIES]
    table += [Case(s, attack, liars) for attack in ATTACKS for liars in LIARS for s in STRATEGIES]
    greedy = [Case(s, "sign-flipped", liars, claims=MAX_EXAMPLES) for s in BOUNDED for liars in (1, *LIARS[:2])]
    unlike = [Case(s, split="unlike") for s in STRATEGIES]
    unlike += [Case(s, attack, 4, "unlike") for attack in ON_UNLIKE for s in STRATEGIES]
    cases = [*table, *greedy, *unlike]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), one_process.one_thread) as pool:
        found = dict(zip(cases, pool.map(measure, cases, chunksize=4), strict=True))
    results = {case: course.auroc for case, course in found.items()}
    clean, plain = found[Case("FedAvg")], results[Case("FedAvg")]
    page = [
        f"AUROC untrained {untrained_auroc():.4f}, FedAvg without liars {plain:.4f}.",
        _main_table(results, plain), _greedy_table(results, plain), _unlike_table(results), _counts(found),
    ]  # fmt: skip
    (FOLDER / "poisoning.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")
    _plot(results, FOLDER / "poisoning.svg")
    rows = [_row("AUROC untrained, against the clean run", untrained_auroc(), plain)]
    rows += [_row(f"{s}: clean", results[Case(s)], plain) for s in STRATEGIES]
    for strategy in STRATEGIES:
        worst = min(ATTACKS, key=lambda attack: _number(results[Case(strategy, attack, 4)]))
        row = _row(f"{strategy}: worst of 4 liars of 20 ({worst})", results[Case(strategy, worst, 4)], plain)
        rows.append(row | {"target": f"≥ clean - {TOLERANCE}" if strategy in HELD else ""})
    norms = [round(max(n), 2) for n in clean.norms]
    rows.append({"what": "honest norms, largest a round", "measured": str(norms), "against": f"bound {BOUND}"})
    rows.append({"what": "seconds", "measured": round(time.time() - began)})
    return rows


def _row(what: str, measured: float, against: float) -> dict[str, object]:
    return {
        "what": what, "measured": round(measured, 4), "against": round(against, 4),
        "ratio": f"{measured - against:+.4f}",
    }  # fmt: skip


def _number(auroc: float) -> float:
    return -1.0 if np.isnan(auroc) else auroc


# ---- the tables and the plot ---------------------------------------------------------------------------------


def _cell(auroc: float, against: float) -> str:
    if np.isnan(auroc):
        return "**none**"
    return f"{auroc:.3f}" if auroc >= against - TOLERANCE else f"**{auroc:.3f}**"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _main_table(results: dict[Case, float], plain: float) -> str:
    rows = []
    for attack in ATTACKS:
        for liars in LIARS:
            cells = [_cell(results[Case(s, attack, liars)], plain) for s in STRATEGIES]
            rows.append([attack, f"{100 * liars // NODES} %", *cells])
    clean = ["none", "0 %", *(_cell(results[Case(s)], plain) for s in STRATEGIES)]
    return _markdown(["they send", "liars", *(f"`{s}`" for s in STRATEGIES)], [clean, *rows])


def _greedy_table(results: dict[Case, float], plain: float) -> str:
    counts = (1, *LIARS[:2])
    rows = [
        [f"`{s}`", *(_cell(results[Case(s, "sign-flipped", n, claims=MAX_EXAMPLES)], plain) for n in counts)]
        for s in BOUNDED
    ]
    return _markdown([f"sign-flipped, claiming {MAX_EXAMPLES} examples", *(f"{n} of {NODES}" for n in counts)], rows)


def _unlike_table(results: dict[Case, float]) -> str:
    plain = results[Case("FedAvg", split="unlike")]
    kinds = [("", 0), *((attack, 4) for attack in ON_UNLIKE)]
    rows = [[f"`{s}`", *(_cell(results[Case(s, a, n, "unlike")], plain) for a, n in kinds)] for s in STRATEGIES]
    return _markdown(["unlike nodes", "no liars", *(f"20 % {attack}" for attack in ON_UNLIKE)], rows)


def _counts(found: dict[Case, Course]) -> str:
    """What became of updates that the merge never saw."""
    refused, untrained, abandoned = (
        sum(getattr(course, name) for course in found.values()) for name in ("refused", "untrained", "abandoned")
    )
    return f"Updates refused: {refused}; fits that diverged: {untrained}; rounds abandoned: {abandoned}."


def _plot(results: dict[Case, float], file: Path) -> None:
    """A panel an attack, a row a strategy, a column a share of liars; red is below the tolerance."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "poisoning", "font.size": 8, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(ATTACKS), figsize=(11, 2.6), sharey=True)
    plain = results[Case("FedAvg")]
    for axis, attack in zip(axes, ATTACKS, strict=True):
        values = np.array([[_number(results[Case(s, attack, n)]) for n in LIARS] for s in STRATEGIES])
        axis.imshow(values, cmap="RdYlBu", vmin=plain - 5 * TOLERANCE, vmax=plain + 3 * TOLERANCE, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            weight = "normal" if value >= plain - TOLERANCE else "bold"
            color = "black" if value >= plain - 4 * TOLERANCE else "white"
            axis.text(column, row, f"{value:.2f}"[1:], ha="center", va="center", size=6.5, weight=weight, color=color)
        axis.set_title(attack, fontsize=8)
        axis.set_xticks(range(len(LIARS)), [f"{100 * n // NODES}" for n in LIARS])
    axes[0].set_yticks(range(len(STRATEGIES)), STRATEGIES)
    figure.supxlabel("nodes that lie, %", fontsize=8)
    figure.tight_layout(w_pad=0.4)
    figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
