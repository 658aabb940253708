"""What the demonstration says at its end: the table, where everything lies, what to try next."""

import shlex
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dl_mqtt_clients.cli.demo_plan import Plan
from dl_mqtt_clients.cli.demo_wishes import Interrupts
from dl_mqtt_clients.cli.demo_work import Outcome
from dl_mqtt_clients.cli.output import print_json
from dl_mqtt_clients.dashboard.comparison import Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How it went."""

    plan: Plan
    failure: Exception | None
    completed: bool
    began: float  # monotonic
    timings: dict[str, float] = field(default_factory=dict)  # what was done -> when, in seconds since the start
    outcome: Outcome | None = None

    def with_outcome(self, outcome: Outcome) -> "Ending":
        """Also writes the report."""
        from dl_mqtt_clients.dashboard.report import write_report  # noqa: PLC0415 - matplotlib takes its time

        compared_s = time.monotonic() - self.began
        write_report(self.plan.report, outcome.results(self.plan, seconds=compared_s))
        timings = self.timings | {"compared": compared_s, "report": time.monotonic() - self.began}
        return replace(self, outcome=outcome, timings=timings)


def show_end(ending: Ending, interrupts: Interrupts, console: Console, *, json: bool) -> None:
    """For people on the console, or as JSON on the standard output."""
    if json:
        print_json(_as_json(ending))
    elif ending.outcome is not None:
        console.print(_table(ending.outcome.models))
    if ending.failure is not None:
        Console(stderr=True, highlight=False).print(Text(f"fedlearn: {ending.failure}", style="red"), soft_wrap=True)
    elif interrupts.number and not ending.completed:
        merged = 0 if ending.outcome is None else sum(r.outcome == "merged" for r in ending.outcome.rounds)
        console.print(f"Interrupted after {merged} of {ending.plan.rounds} rounds.", style="yellow")
    if not json:
        for line in _places(ending):
            console.print(line, soft_wrap=True)


def _table(models: tuple[Measured, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title="On the test part", title_justify="left")
    table.add_column("model")
    for name in ("AUROC", "average precision", "loss"):
        table.add_column(name, justify="right")
    for model in models:
        numbers = (_number(model.auroc, ".3f"), _number(model.average_precision, ".3f"), _number(model.loss, ".3g"))
        table.add_row(model.name, *numbers, style="bold green" if model.name == "federated" else "")
    return table


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _places(ending: Ending) -> list[Text]:
    """Where everything lies, and commands to go on with."""
    plan = ending.plan
    lines = [Text()]
    if ending.outcome is not None:
        lines += [_place("Report", plan.report), _place("Model", plan.updated_model / "model.keras")]
    lines += [_place("Logs", plan.logs), _place("Settings", plan.configuration)]
    if ending.completed:
        lines += [Text(), Text("Try next:", style="bold")]
        lines += [Text(f"  {command}") for command in _next(plan)]
    return lines


def _place(name: str, path: Path) -> Text:
    return Text.assemble((f"{name:<9} ", "dim"), str(path))


def _next(plan: Plan) -> list[str]:
    return [
        f"fedlearn model inspect {shlex.quote(str(plan.updated_model / 'model.keras'))}",
        "fedlearn demo --rounds 20 --trainers 5",
        "fedlearn demo --data FOLDER      # BETH's or NSL-KDD's files, or any CSV or Parquet table",
        "fedlearn demo --broker mqtt://localhost:1883      # and watch: mosquitto_sub -v -t 'fedlearn/#'",
    ]


def _as_json(ending: Ending) -> dict[str, Any]:
    outcome, plan = ending.outcome, ending.plan
    return {
        "completed": ending.completed,
        "failure": None if ending.failure is None else str(ending.failure),
        "rounds": [] if outcome is None else [report for report in outcome.rounds if report.outcome == "merged"],
        "models": [] if outcome is None else [_measured(model) for model in outcome.models],
        "versions": [] if outcome is None else [report for report in outcome.rounds if report.version],
        "by_version": [] if outcome is None else [_measured(m) for m in outcome.by_version.values()],
        "threshold": outcome and outcome.threshold,
        "seconds": {name: round(at, 2) for name, at in ending.timings.items()},
        "report": str(plan.report) if outcome else None,
        "updated_model": str(plan.updated_model / "model.keras") if outcome else None,
        "logs": str(plan.logs),
        "configuration": str(plan.configuration),
    }


def _measured(model: Measured) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ("name", "auroc", "average_precision", "loss")}
