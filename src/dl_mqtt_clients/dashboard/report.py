"""The page that a demonstration leaves behind: one file, nothing loaded from anywhere."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.dashboard.agreed import fate_of, made
from dl_mqtt_clients.dashboard.comparison import Measured
from dl_mqtt_clients.dashboard.rows import ROUND_COLUMNS, agreed_rows, digits, model_row, round_row, short
from dl_mqtt_clients.wire.messages import Metrics, RoundReport

if TYPE_CHECKING:
    from markupsafe import Markup

_TEMPLATE: Final = "report.html.j2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """What a report is made of."""

    title: str
    lead: str
    settings: Settings
    rounds: tuple[RoundReport, ...]  # every attempt, oldest first
    threshold: float | None
    models: tuple[Measured, ...]  # base, federated, trained centrally
    by_version: Mapping[int, Measured]  # the federated model, by the version's number
    labels: np.ndarray  # [n], of the test part: 0 normal, > 0 anomalous, -1 unknown
    seconds: float

    @property
    def merged(self) -> tuple[RoundReport, ...]:
        return tuple(report for report in self.rounds if report.outcome == "merged")


def write_report(path: Path, results: Results) -> None:
    """Render and write it, whole or not at all."""
    write_atomically(path, render_report(results).encode())


def render_report(results: Results) -> str:
    """HTML."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - takes its time

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(report=_content(results))


def _content(results: Results) -> Mapping[str, Any]:
    return {
        "title": results.title,
        "lead": results.lead,
        "figures": _figures(results),
        "test_rows": f"{len(results.labels):,}",
        "models": [model_row(model) for model in results.models],
        **_plots(results),
        "verdicts": _verdicts(results),
        "agreed": agreed_rows(
            results.rounds, threshold=results.threshold, quantile=results.settings.threshold.quantile
        ),
        "round_columns": ROUND_COLUMNS,
        "rounds": [round_row(report) for report in results.rounds],
        "settings": changed_settings(results.settings),
        "footer": f"dl-mqtt-clients {version('dl-mqtt-clients')}, {_now()}",
    }


def _figures(results: Results) -> list[dict[str, str]]:
    base, federated = results.models[:2]
    used = sum(report.metrics.examples for report in results.merged)
    updates = sum(len(report.participants) for report in results.merged)
    pairs = [
        (digits(base.auroc), "AUROC of the base model"),
        (digits(federated.auroc), "AUROC of the model in production"),
        (f"{updates:,}", "updates merged"),
        (f"{_promoted(results)} of {len(made(results.rounds))}", "versions promoted"),
        (f"{used:,}", "readings used in fits"),
        (f"{results.seconds:.0f} s", "in all"),
    ]
    return [{"value": value, "name": name} for value, name in pairs]


def _promoted(results: Results) -> int:
    return sum(fate_of(report)[0] == "promoted" for report in results.rounds)


def _plots(results: Results) -> dict[str, "Markup"]:
    from markupsafe import Markup  # noqa: PLC0415 - with the template

    from dl_mqtt_clients.dashboard import plots  # noqa: PLC0415 - matplotlib takes its time

    base, federated = results.models[:2]
    merged = results.merged
    nodes, examples = who_took_part(merged)
    drawn = {
        **_version_plots(results),
        "scores_plot": plots.score_distributions(
            base.scores, federated.scores, results.labels, threshold=results.threshold
        ),
        "participation_plot": plots.participation(nodes, [report.round for report in merged], examples),
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - our own drawing


def _version_plots(results: Results) -> dict[str, str]:
    from dl_mqtt_clients.dashboard import plots  # noqa: PLC0415 - matplotlib takes its time

    base, _, *others = results.models
    tested = {0: base, **results.by_version}
    reports = {report.number: report for report in made(results.rounds)}
    numbers = range(max(tested.keys() | reports.keys()) + 1)
    models = [tested.get(number) for number in numbers]
    found = [reports[number].metrics if number in reports else Metrics() for number in numbers]
    rejected = [number for number, report in reports.items() if fate_of(report)[0] == "rejected"]
    marks = plots.Marks(rejected, [number for number, report in reports.items() if report.outcome == "rescaled"])
    return {
        "auroc_plot": plots.auroc_a_version(
            test=[None if model is None else model.auroc for model in models],
            reported=[metrics.auroc for metrics in found],
            central=others[0].auroc if others else None,
            marks=marks,
        ),
        "loss_plot": plots.loss_a_version(
            test=[None if model is None else model.loss for model in models],
            training=[metrics.loss for metrics in found],
            marks=marks,
        ),
        "spread_plot": plots.spread_a_version([metrics.loss_spread for metrics in found], marks=marks),
    }


def who_took_part(merged: Sequence[RoundReport]) -> tuple[list[str], np.ndarray]:
    """Names of all who ever took part or should have, and the examples of each in each round: [nodes, rounds]."""
    present = {p.node for report in merged for p in report.participants}
    nodes = sorted(present | {node for report in merged for node in report.left_out})
    examples = np.zeros((len(nodes), len(merged)))
    for column, report in enumerate(merged):
        for participant in report.participants:
            examples[nodes.index(participant.node), column] = participant.examples
    return nodes, examples


def _verdicts(results: Results) -> str:
    """What the threshold does on the test part, in words."""
    if results.threshold is None:
        return "No threshold was agreed on."
    federated = results.models[1]
    quantile = results.settings.threshold.quantile
    words = (
        f"The threshold, {short(results.threshold)}, is the {quantile:.0%} quantile of the trainers’ held-out scores."
    )
    above = federated.scores > results.threshold
    parts = [
        f"{above[chosen].mean():.1%} of the {name} rows lie above it"
        for chosen, name in ((results.labels <= 0, "normal"), (results.labels > 0, "anomalous"))
        if chosen.any()
    ]
    return f"{words} On the test part, {' and '.join(parts)}."


def changed_settings(settings: Settings) -> list[tuple[str, str]]:
    """Fields that differ from the defaults, without secrets."""
    return list(_changed(settings.model_dump(mode="json"), Settings().model_dump(mode="json"), ""))


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _changed(value, defaults[name], f"{prefix}{name}.")
        elif value != defaults[name] and name != "password":
            found.append((f"{prefix}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return found


def _now() -> str:
    return f"{dt.datetime.now().astimezone():%Y-%m-%d %H:%M %Z}"
