"""The report's plots as SVG that takes its colours and fonts from the page, so that it is readable by day and night.

matplotlib draws with stand-in colours, each of which becomes a CSS variable: `var(--ink)`, `var(--first)`, ….
"""

import io
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from dl_mqtt_clients.wire.messages import Spread

mpl.use("svg")

INK, MUTED, GRID = "#010101", "#020202", "#030303"
FIRST, SECOND, THIRD = "#040404", "#050505", "#060606"
_VARIABLES: Final = {INK: "ink", MUTED: "muted", GRID: "grid", FIRST: "first", SECOND: "second", THIRD: "third"}
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fedlearn",  # the same input gives the same bytes
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 4.5,
}

Values = Sequence[float | None]


class Marks(NamedTuple):
    """Numbers of versions that the gate kept back, and of those that opened a lineage by a new scaler."""

    rejected: Sequence[int]
    rescaled: Sequence[int]


def auroc_a_version(*, test: Values, reported: Values, central: float | None, marks: Marks | None = None) -> str:
    """AUROC of versions 0, 1, …: on the test part, and as predictors reported it while it ran."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.4)
        _line(axes, test, FIRST, "o-", "on the whole test part")
        _line(axes, reported, SECOND, "s--", "from the predictors' streams, live")
        if central is not None:
            axes.axhline(central, color=THIRD, linestyle=":", label="trained centrally")
        known = [value for value in (*test, *reported, central) if value is not None]
        axes.set_ylim(min([0.5, *known]) - 0.02, 1.02)
        _mark(axes, test, marks)
        _versions_axis(axes, len(test))
        axes.set_ylabel("AUROC")
        _legend(axes, "lower right")
        return _svg(figure, "auroc")


def loss_a_version(*, test: Values, training: Values, marks: Marks | None = None) -> str:
    """Reconstruction error of versions 0, 1, …, on a logarithmic scale."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(6.4, 3.4)
        _line(axes, test, FIRST, "o-", "normal rows of the test part")
        _line(axes, training, SECOND, "s--", "trainers' readings, while fitting")
        if any(value is not None and value > 0 for value in (*test, *training)):
            axes.set_yscale("log")
        _mark(axes, test, marks)
        _versions_axis(axes, len(test))
        axes.set_ylabel("mean squared error")
        _legend(axes, "upper right")
        return _svg(figure, "loss")


def spread_a_version(spreads: Sequence[Spread | None], *, marks: Marks | None = None) -> str:
    """Losses on the nodes' held-out readings, versions 0, 1, …: best to worst node in medians."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure(13.0, 2.8)
        known = [(place, spread) for place, spread in enumerate(spreads) if spread is not None and spread.median > 0]
        name: str | None = "from the best node to the worst, which is named"
        for place, spread in known:
            ends = spread.best / spread.median, spread.worst / spread.median
            axes.plot([place] * 2, ends, "_-", color=FIRST, linewidth=6, markersize=14, alpha=0.5, label=name)
            axes.text(place, ends[1], f"{spread.worst_node}\n", ha="center", va="center", fontsize=9, color=MUTED)
            name = None
        axes.axhline(1.0, color=MUTED, linewidth=1.2, label="the median node")
        _mark(axes, [None if spread is None else 1.0 for spread in spreads], marks)
        axes.margins(y=0.25)
        _versions_axis(axes, len(spreads))
        axes.set_ylabel("times the median loss")
        figure.legend(loc="outside upper right", ncols=4)
        return _svg(figure, "spread")


def score_distributions(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, *, threshold: float | None, bins: int = 60
) -> str:
    """Scores of normal and of anomalous rows under the base model (left) and under the federated one (right)."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(13.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharex=True, sharey=True)
        edges = _log_edges(np.concatenate([before, after]), bins)
        for axes, scores, title in ((left, before, "before: base model"), (right, after, "after: federated model")):
            for chosen, colour, name in ((labels <= 0, FIRST, "normal"), (labels > 0, SECOND, "anomalous")):
                _histogram(axes, scores[chosen], edges, colour, name)
            axes.set_xscale("log")
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel("score of a row")
        if threshold:
            right.axvline(threshold, color=INK, linestyle="--", linewidth=1.5, label="threshold")
        left.set_ylabel("share of rows, %")
        _legend(right, "upper right")
        return _svg(figure, "scores")


def participation(nodes: Sequence[str], rounds: Sequence[int], examples: np.ndarray) -> str:
    """Heat map [nodes, rounds] of the readings each update was trained on; 0: did not take part."""
    height = 0.9 + 0.34 * len(nodes)
    with mpl.rc_context({**_STYLE, "axes.grid": False, "axes.spines.left": False, "axes.spines.bottom": False}):
        figure, axes = _figure(13.0, height)
        most = max(float(examples.max(initial=0)), 1.0)
        write = len(rounds) <= 20
        for y in range(len(nodes)):
            for x in range(len(rounds)):
                _cell(axes, x, y, float(examples[y, x]), most, write=write)
        axes.set_xlim(-0.5, len(rounds) - 0.5)
        axes.set_ylim(len(nodes) - 0.5, -0.5)
        axes.set_yticks(range(len(nodes)), nodes)
        step = max(1, len(rounds) // 20)
        axes.set_xticks(range(0, len(rounds), step), [str(rounds[i]) for i in range(0, len(rounds), step)])
        axes.tick_params(length=0)
        axes.set_xlabel("round")
        return _svg(figure, "participation")


# ---- parts ----


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _line(axes: Any, values: Values, colour: str, style: str, name: str) -> None:
    places = [place for place, value in enumerate(values) if value is not None]
    if places:
        axes.plot(places, [values[place] for place in places], style, color=colour, label=name)


def _legend(axes: Any, place: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place)


def _mark(axes: Any, values: Values, marks: Marks | None) -> None:
    if marks is None:
        return
    places = [place for place in marks.rejected if values[place] is not None]
    if places:
        axes.plot(
            places, [values[place] for place in places], "X", color=SECOND, markersize=10, linestyle="none", zorder=5,
            label="rejected: never in production",
        )  # fmt: skip
    for number, place in enumerate(marks.rescaled):
        axes.axvline(place, color=MUTED, linestyle=":", linewidth=1.2, label=None if number else "a new scaler")


def _versions_axis(axes: Any, count: int) -> None:
    step = max(1, count // 12)
    axes.set_xticks(range(0, count, step))
    axes.set_xlim(-0.5, max(count, 1) - 0.5)
    axes.set_xlabel("version (0: the base model)")


def _log_edges(scores: np.ndarray, bins: int) -> np.ndarray:
    positive = scores[(scores > 0) & np.isfinite(scores)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    edges: np.ndarray = np.geomspace(low, max(high, low * 1.001), bins + 1)
    return edges


def _histogram(axes: Any, scores: np.ndarray, edges: np.ndarray, colour: str, name: str) -> None:
    if len(scores):
        counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
        axes.stairs(100.0 * counts / len(scores), edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(100.0 * counts / len(scores), edges, color=colour, linewidth=1.5, label=name)


def _cell(axes: Any, x: int, y: int, examples: float, most: float, *, write: bool) -> None:
    if not examples:
        axes.text(x, y, "–", ha="center", va="center", color=MUTED)
        return
    opacity = 0.15 + 0.45 * examples / most
    axes.fill(
        [x - 0.46, x + 0.46, x + 0.46, x - 0.46],
        [y - 0.42, y - 0.42, y + 0.42, y + 0.42],
        color=FIRST,
        alpha=opacity,
        linewidth=0,
    )
    if write:
        axes.text(x, y, f"{examples:,.0f}", ha="center", va="center", fontsize=9)


# ---- SVG ----


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element of a page: no size of its own, ids of its own, colours and fonts of the page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', text, count=1)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]*", r"font: \1\2 system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    return text
