"""What a quarantine is worth: AUROC on KDDTest+ when a share of every node's window is an attack that nobody labelled.

Four nodes with equal shares of NSL-KDD's normal rows and a burst of attacks at the end; 12 rounds. The limit is a
quantile of all nodes' scores, attacks among them, as in the services. Writes artifacts/bench/clean_windows.{md,svg}.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import one_process
from benchmarks.one_process import Course, Node, data, example

NODES, ROUNDS = 4, 12
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2)  # of a window that is attack
QUANTILES = (None, 0.99, 0.95, 0.9, 0.8)
FILES = Path("artifacts/bench/clean_windows.md"), Path("artifacts/bench/clean_windows.svg")


def run() -> list[dict[str, object]]:
    found = {(share, q): _course(share, q).auroc for share in SHARES for q in QUANTILES}
    for path, draw in zip(FILES, (_table, _plot), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(found, path)
    clean = found[0.0, None]
    return [
        {
            "what": f"AUROC, {share:.0%} attack, quarantine {q or 'off'}", "measured": round(auroc, 4),
            "against": round(clean, 4), "ratio": f"{auroc - clean:+.4f}", "target": "",
        }
        for (share, q), auroc in found.items()
    ]  # fmt: skip


def _course(share: float, quantile: float | None) -> Course:
    nodes = _nodes(share)
    held = np.concatenate([node.x[::10] for node in nodes])

    def window(node: Node, weights: Sequence[np.ndarray]) -> np.ndarray:
        from dl_mqtt_clients.config import QuarantineSettings
        from dl_mqtt_clients.services.clean_window import CleanWindow

        if quantile is None:
            return node.x
        scorer = example()
        scorer.set_weights(list(weights))
        limit = float(np.quantile(scorer.scores(held), quantile))
        clean = CleanWindow(QuarantineSettings(recent=len(node.x), cap=0.5))
        return node.x[clean.select(node.x, scorer.scores, limit=limit, total=len(node.x))]

    return one_process.run(nodes, rounds=ROUNDS, window=window)


def _nodes(share: float) -> list[Node]:
    """Each with as many rows, whatever the share of attacks among them."""
    rng = np.random.default_rng(1)
    train = data().train
    normal, attacks = train.x[train.y == 0], train.x[train.y > 0]
    rows = len(normal) // NODES
    bad = round(share * rows)
    parts = np.array_split(rng.permutation(len(normal)), NODES)
    return [
        Node(f"n{i}", np.concatenate([normal[part[: rows - bad]], attacks[rng.choice(len(attacks), bad)]]))
        for i, part in enumerate(parts)
    ]


def _table(found: dict[tuple[float, float | None], float], path: Path) -> None:
    names = ["off" if q is None else f"{q:g}" for q in QUANTILES]
    lines = [f"| attack in the window | {' | '.join(names)} |", "|---" * (1 + len(QUANTILES)) + "|"]
    lines += [f"| {s:.0%} | {' | '.join(f'{found[s, q]:.3f}' for q in QUANTILES)} |" for s in SHARES]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _plot(found: dict[tuple[float, float | None], float], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    axes = figure.subplots()
    for q in QUANTILES:
        style = {"color": "black", "linestyle": "--"} if q is None else {}
        label = "no quarantine" if q is None else f"quantile {q:g}"
        axes.plot([s * 100 for s in SHARES], [found[s, q] for s in SHARES], marker="o", label=label, **style)
    axes.set(xlabel="attack in the training windows, % of the readings", ylabel="AUROC on KDDTest+")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path)
