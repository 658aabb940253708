"""Rounds over time with every kill on the curve: `python -m benchmarks.chaos_timeline OUT.svg TITLE=FOLDER …`."""

import json
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

KINDS = {"broker": ("v", "#c1121f"), "manager": ("s", "#1d3557"), "trainer": (".", "#e09f3e")}


@dataclass(frozen=True)
class Timeline:
    """Seconds since the first process started."""

    merges: tuple[float, ...]
    kills: tuple[tuple[float, str], ...]  # (when, who)
    until: float


def timeline(folder: Path) -> Timeline:
    """From the ledgers of a run. A merge that was cut short by a kill and done again counts once, when it was done."""
    lines = [json.loads(line) for file in (folder / "ledger").glob("*.jsonl") for line in file.read_text().splitlines()]
    start = min((line["at"] for line in lines), default=0.0)
    merges = {line["round"]: line["at"] - start for line in lines if line["what"] == "merging"}
    kills = [(line["at"] - start, line["victim"]) for line in lines if line["what"] == "kill"]
    until = max((line["at"] - start for line in lines), default=0.0)
    return Timeline(tuple(sorted(merges.values())), tuple(sorted(kills)), until)


def draw(timelines: dict[str, Timeline], file: Path) -> None:
    """One panel a run."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.hashsalt": "chaos", "svg.fonttype": "none"})  # the same file for the same run
    figure = Figure(figsize=(8.0, 2.1 * len(timelines) + 0.5), layout="constrained")
    panels = np.atleast_1d(figure.subplots(len(timelines), 1))
    for axes, (title, run) in zip(panels, timelines.items(), strict=True):
        _panel(axes, title, run)
    panels[-1].set_xlabel("seconds")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None})


def _panel(axes, title: str, run: Timeline) -> None:
    done = np.arange(len(run.merges) + 1)
    axes.step([0.0, *run.merges], done, where="post", color="0.55", linewidth=1, label="rounds closed")
    for kind, (marker, color) in KINDS.items():
        times = [when for when, who in run.kills if who == kind or (kind == "trainer" and who.startswith("node"))]
        height = np.searchsorted(run.merges, times, side="right")
        axes.plot(times, height, marker, color=color, markersize=4 if marker != "." else 5, label=f"{kind} killed")
    longest = max((b - a for a, b in pairwise(run.merges)), default=0.0)
    axes.set_title(
        f"{title}: {len(run.merges)} rounds, {len(run.kills)} kills, longest gap {longest:.0f} s",
        loc="left", fontsize=9,
    )  # fmt: skip
    axes.set_ylabel("rounds closed", fontsize=9)
    axes.set_xlim(0, run.until * 1.01)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    pairs = (word.split("=", 1) for word in sys.argv[2:])
    draw({title: timeline(Path(folder)) for title, folder in pairs}, Path(sys.argv[1]))
