"""The federation on one screen, drawn with rich: `screen(fleet, situation, width=…, height=…)`. Pure."""

from typing import Final

from rich.console import Group, RenderableType
from rich.layout import Layout
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dl_mqtt_clients.dashboard.fleet import Fleet
from dl_mqtt_clients.dashboard.panels import anomalies_panel, learning_panels, nodes_panel, rounds_panel
from dl_mqtt_clients.dashboard.situation import Situation

WIDE: Final = 110  # columns from which there is room for two halves side by side


def screen(fleet: Fleet, situation: Situation, *, width: int, height: int) -> RenderableType:
    """Everything, in exactly `width` × `height` characters."""
    head = Layout(_head(fleet, situation), size=3)
    foot = Layout(_foot(fleet, situation), size=1)
    layout = Layout()
    layout.split_column(head, _body(fleet, situation, width, height - 4), foot)
    return layout


# ---- arrangement ----


def _body(fleet: Fleet, situation: Situation, width: int, height: int) -> Layout:
    nodes_height = len(fleet.nodes) + 4
    if width >= WIDE and height >= nodes_height + 8:
        return _two_halves(fleet, situation, width, height, nodes_height)
    anomalies_height = 5 if height >= nodes_height + 11 else 3
    charts_height = max(5, height - nodes_height - anomalies_height)
    body = Layout()
    body.split_column(
        Layout(nodes_panel(fleet), size=max(4, min(nodes_height, height - charts_height - anomalies_height))),
        learning_panels(fleet, situation, width, charts_height, stacked=False),
        Layout(anomalies_panel(fleet, situation, anomalies_height - 2), size=anomalies_height),
    )
    return body


def _two_halves(fleet: Fleet, situation: Situation, width: int, height: int, nodes_height: int) -> Layout:
    left_width = max(68, width * 11 // 20)
    left, right, body = Layout(size=left_width), Layout(), Layout()
    rest = height - nodes_height
    left.split_column(
        Layout(nodes_panel(fleet), size=nodes_height), Layout(anomalies_panel(fleet, situation, rest - 2), size=rest)
    )
    rounds_height = min(max(6, height // 3), 13)
    right.split_column(
        learning_panels(fleet, situation, width - left_width, height - rounds_height, stacked=True),
        Layout(rounds_panel(fleet, rounds_height - 3), size=rounds_height),
    )
    body.split_row(left, right)
    return body


# ---- head and foot ----


def _head(fleet: Fleet, situation: Situation) -> RenderableType:
    done = len(fleet.merged)
    top = Table.grid(expand=True)
    top.add_column(ratio=1, no_wrap=True)
    top.add_column(justify="right")
    top.add_row(
        Text.assemble((situation.title, "bold cyan"), ("  " + situation.phase, "dim")),
        Text(f"{situation.elapsed_s:.0f} s", style="dim"),
    )
    bar = Table.grid(expand=True, padding=(0, 1))
    bar.add_column()
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    wanted = situation.rounds or done + 1
    finished = done >= wanted
    progress = min(done + (0.0 if finished else fleet.round_done()), wanted)
    bar.add_row(
        Text(f"Round {min(done + 1, wanted)} of {situation.rounds or '∞'}", style="bold"),
        ProgressBar(total=wanted, completed=progress, complete_style="cyan", finished_style="green"),
        Text(f"{done} merged", style="green" if finished else ""),
    )
    return Group(top, bar, Text())


def _foot(fleet: Fleet, situation: Situation) -> RenderableType:
    foot = Table.grid(expand=True, padding=(0, 1))
    foot.add_column(no_wrap=True)
    foot.add_column(no_wrap=True, ratio=1)
    foot.add_column(justify="right", no_wrap=True)
    rates = Text.assemble(
        (f"{fleet.message_rate(now=situation.now):.0f}", "bold"),
        " messages/s  ",
        (f"{fleet.reading_rate():,.0f}", "bold"),
        " readings/s ",
    )
    foot.add_row(rates, Text(situation.broker, style="dim"), Text("Ctrl-C ends", style="dim"))
    return foot
