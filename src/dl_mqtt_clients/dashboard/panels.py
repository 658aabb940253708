"""The parts of the picture: nodes, what they learn, rounds, anomalies. Pure."""

from typing import Final

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dl_mqtt_clients.dashboard.agreed import fate_of
from dl_mqtt_clients.dashboard.charts import limits, line_chart, logarithms
from dl_mqtt_clients.dashboard.fleet import Fleet, is_alive, printable
from dl_mqtt_clients.dashboard.situation import Situation
from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus, RoundReport, Spread

_BUSY: Final = frozenset({"fitting", "offering", "fetching", "collecting", "scaling"})
_EDGE: Final = "bright_black"
_STYLES: Final = {"merged": "", "rescaled": "cyan"}  # of a round's row
_KINDS: Final = {"abandoned": "{} abandoned", "rescaled": "scaler", "returned": "to best"}
_MARKS: Final = {
    "promoted": Text("✓", style="green"),
    "rejected": Text("✗", style="bold red"),
    "waiting": Text("…", style="dim"),
}


def _panel(content: RenderableType, title: str) -> Panel:
    return Panel(content, title=Text(title, style="bold"), title_align="left", border_style=_EDGE, padding=(0, 1))


# ---- nodes ----


def nodes_panel(fleet: Fleet) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("", width=1)
    table.add_column("node", no_wrap=True)
    table.add_column("state", no_wrap=True, width=11)
    table.add_column("", no_wrap=True, ratio=1)
    table.add_column("read/s", justify="right", no_wrap=True)
    table.add_column("model", justify="right", no_wrap=True)
    table.add_column("", justify="right", no_wrap=True, width=12)
    if fleet.manager is not None:
        table.add_row(*_manager_row(fleet, fleet.manager))
    for node, status in fleet.in_role("trainer").items():
        table.add_row(*_trainer_row(fleet, node, status))
    for node, status in fleet.in_role("predictor").items():
        table.add_row(*_predictor_row(node, status))
    if not fleet.nodes and fleet.manager is None:
        return _panel(Text("Waiting for them to start …", style="dim"), "Nodes")
    waits_for = printable(fleet.manager.detail) if fleet.manager and is_alive(fleet.manager) else ""
    return _panel(table, f"Nodes; {waits_for}" if waits_for else "Nodes")


def _manager_row(fleet: Fleet, status: ManagerStatus) -> list[RenderableType]:
    target = fleet.round.target_updates if fleet.round else 0
    updates = f"{len(fleet.receipts)}/{target} updates" if target and is_alive(status) else ""
    return [
        _dot(status.state), Text("manager"), _state(status.state),
        _bar(fleet.round_done() if updates and status.state != "scaling" else None),
        Text(), Text(f"v{status.version}"), Text(updates),
    ]  # fmt: skip


def _trainer_row(fleet: Fleet, node: str, status: NodeStatus) -> list[RenderableType]:
    loss = "" if status.loss is None else f"loss {_number(status.loss)}"
    state = "update sent" if node in fleet.receipts and status.state == "waiting" else _doing(fleet, status)
    return [
        _dot(status.state), Text(node), _state(status.state, state),
        _bar(fleet.share_done(node) if is_alive(status) else None),
        Text(f"{status.readings.rate:,.0f}"), _version(status), Text(loss),
    ]  # fmt: skip


def _doing(fleet: Fleet, status: NodeStatus) -> str:
    """A trainer that waits does so for readings, mostly."""
    if status.state != "waiting" or status.version is None or fleet.round is None:
        return status.state
    return "gathering" if "readings" in status.detail else "waiting"


def _predictor_row(node: str, status: NodeStatus) -> list[RenderableType]:
    share = status.anomalies / status.scored if status.scored else 0.0
    found = Text(f"{status.anomalies:,} found", style="yellow" if status.anomalies else "")
    return [
        _dot(status.state), Text(node), _state(status.state),
        Text(f"{share:.0%} flagged" if status.scored else "", style="dim"),
        Text(f"{status.readings.rate:,.0f}"), _version(status), found,
    ]  # fmt: skip


def _dot(state: str) -> Text:
    if state == "lost":
        return Text("●", style="red")
    if state in ("stopped", "finished"):
        return Text("○", style="dim")
    return Text("●", style="cyan" if state in _BUSY else "green")


def _state(state: str, words: str = "") -> Text:
    style = "red" if state == "lost" else "cyan" if state in _BUSY else ""
    return Text(words or state, style=style)


def _bar(share: float | None) -> RenderableType:
    if share is None:
        return Text()
    return ProgressBar(total=1.0, completed=share, complete_style="cyan", finished_style="green")


def _version(status: NodeStatus) -> Text:
    return Text(f"v{status.number}") if status.version else Text("–", style="dim")


# ---- learning ----


def learning_panels(fleet: Fleet, situation: Situation, width: int, height: int, *, stacked: bool) -> Layout:
    """AUROC and loss a round; the base model is round 0."""
    merged, slots = fleet.merged, situation.rounds + 1
    auroc = [situation.baseline_auroc, *(report.metrics.auroc for report in merged)]
    loss = [situation.baseline_loss, *(report.metrics.loss for report in merged)]
    charts = Layout()
    halves = (height - height // 2, height // 2) if stacked else (height, height)
    widths = (width, width) if stacked else (width - width // 2, width // 2)
    worst = next((r.metrics.auroc_spread for r in reversed(merged) if r.metrics.auroc_spread), None)
    first = Layout(_auroc_chart(auroc, widths[0] - 4, halves[0] - 2, slots, worst=worst))
    second = Layout(_loss_chart(loss, widths[1] - 4, halves[1] - 2, slots))
    (charts.split_column if stacked else charts.split_row)(first, second)
    if not stacked:
        first.size, second.size = widths
        charts.size = height
    return charts


def _auroc_chart(
    values: list[float | None], width: int, height: int, slots: int, *, worst: Spread | None = None
) -> Panel:
    known = [value for value in values if value is not None]
    low = min(0.5, *known) if known else 0.5
    lines = line_chart(values, width=width - 4, height=height, low=low, high=1.0, slots=slots)
    title = f"AUROC {known[-1]:.3f}" if known else "AUROC"
    title += f", worst {worst.worst:.3f} on {worst.worst_node}" if worst else ""
    return _panel(_labelled(lines, f"{low:.1f}", "1.0", "green") if known else _nothing_yet(), title)


def _loss_chart(values: list[float | None], width: int, height: int, slots: int) -> Panel:
    known = [value for value in values if value is not None]
    powers = logarithms(values)
    low, high = limits(powers)
    bottom, top = _number(10**low), _number(10**high)
    margin = max(len(bottom), len(top)) + 1
    lines = line_chart(powers, width=width - margin, height=height, low=low, high=high, slots=slots)
    title = f"Loss {_number(known[-1])}, logarithmic" if known else "Loss"
    return _panel(_labelled(lines, bottom, top, "magenta") if known else _nothing_yet(), title)


def _labelled(lines: list[str], bottom: str, top: str, style: str) -> RenderableType:
    """A chart with the values of its first and last line at the left."""
    margin = max(len(bottom), len(top))
    labels = [top, *[""] * (len(lines) - 2), bottom][: len(lines)]
    return Group(
        *(
            Text.assemble((f"{label:>{margin}} ", "dim"), (line, style))
            for label, line in zip(labels, lines, strict=True)
        )
    )


def _nothing_yet() -> Text:
    return Text("after the first round", style="dim")


def _number(value: float) -> str:
    """About three digits: 0.0123, 1.23, 45.6."""
    return f"{value:.3g}" if 1e-4 <= abs(value) < 1e5 or value == 0 else f"{value:.1e}"


# ---- rounds and anomalies ----


def rounds_panel(fleet: Fleet, rows: int) -> Panel:
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), header_style="dim")
    for name in ("round", "updates", "readings", "loss", "AUROC", "", "s"):
        table.add_column(name, justify="right", no_wrap=True)
    for report in reversed(fleet.rounds[-rows:] if rows > 0 else ()):
        table.add_row(*_round_row(report))
    if not fleet.rounds:
        scaling = fleet.manager is not None and fleet.manager.state == "scaling"
        first = "The first one opens when there is a scaler." if scaling else "The first one is open."
        return _panel(Text(first, style="dim"), "Rounds")
    return _panel(table, _rounds_title(fleet))


def _rounds_title(fleet: Fleet) -> str:
    """With what predictors use now."""
    known = [r for r in fleet.rounds if r.threshold is not None and fate_of(r)[0] == "promoted"]
    production = fleet.manager.production if fleet.manager else 0
    now = next((r for r in reversed(known) if r.number == production), None)
    return f"Rounds; v{production} in production, threshold {_number(now.threshold or 0.0)}" if now else "Rounds"


def _round_row(report: RoundReport) -> list[Text]:
    metrics, style = report.metrics, _STYLES.get(report.outcome, "yellow")
    is_round = report.outcome in ("merged", "abandoned")
    left_out = f" of {len(report.participants) + len(report.left_out)}" if report.left_out else ""
    cells = [
        _KINDS.get(report.outcome, str(report.round)).format(report.round),
        f"{len(report.participants)}{left_out}" if is_round else "–",
        f"{metrics.examples:,}" if is_round else "–",
        "–" if metrics.loss is None else _number(metrics.loss),
        "–" if metrics.auroc is None else f"{metrics.auroc:.3f}",
        f"{report.seconds:.1f}",
    ]
    shown = [Text(cell, style=style) for cell in cells]
    return [*shown[:-1], _MARKS.get(fate_of(report)[0], Text()), shown[-1]]


def anomalies_panel(fleet: Fleet, situation: Situation, rows: int) -> Panel:
    if not fleet.anomalies:
        return _panel(Text("none yet", style="dim"), "Latest anomalies")
    table = Table(box=None, expand=True, padding=(0, 1, 0, 0), show_header=False)
    table.add_column(justify="right", no_wrap=True, width=8)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, ratio=1)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    for seen in fleet.anomalies[: max(rows, 1)]:
        anomaly = seen.anomaly
        times = anomaly.score / anomaly.threshold if anomaly.threshold else 0.0
        table.add_row(
            Text(f"{max(situation.now - seen.at_s, 0.0):.0f} s ago", style="dim"),
            Text(seen.node),
            Text(printable(str(anomaly.id)[:24]), style="yellow"),
            Text(f"score {_number(anomaly.score)}"),
            Text(f"{_number(times)}×" if times else "", style="dim"),
        )
    return _panel(table, "Latest anomalies (× the threshold)")
