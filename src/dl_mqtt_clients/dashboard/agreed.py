"""What nodes agreed on and found, in words and cells. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from dl_mqtt_clients.wire.messages import RoundReport, Spread, Verdicts

FATES: Final = {"promote": "promoted", "reject": "rejected", "wait": "waiting"}


def fate_of(report: RoundReport) -> tuple[str, str]:
    """What became of its version (promoted, rejected, waiting, or nothing yet), and why."""
    decision, _, why = report.promotion.partition(": ")
    return FATES.get(decision, ""), why


def made(reports: Iterable[RoundReport]) -> list[RoundReport]:
    """Those that made a version, by its number."""
    return sorted((report for report in reports if report.version), key=lambda report: report.number)


def scaler_words(reports: Sequence[RoundReport]) -> str:
    """How the last agreed scaler came about; empty when the base model's is used."""
    agreed = [report for report in made(reports) if report.outcome == "rescaled"]
    if not agreed:
        return ""
    nodes = agreed[-1].participants
    readings = sum(participant.examples for participant in nodes)
    return (
        f"agreed on by {len(nodes)} nodes, from sums over {readings:,} readings; it opened version {agreed[-1].number}"
    )


def alert_words(verdicts: Verdicts | None) -> str:
    """Labelled readings at the threshold: the shares that were right; empty when there are none."""
    if verdicts is None:
        return ""
    anomalous = verdicts.true_positives + verdicts.false_negatives
    normal = verdicts.false_positives + verdicts.true_negatives
    parts = [
        f"{part:,} of {whole:,} {name} readings above it ({part / whole:.1%})"
        for part, whole, name in (
            (verdicts.true_positives, anomalous, "anomalous"),
            (verdicts.false_positives, normal, "normal"),
        )
        if whole
    ]
    return ", ".join(parts)


def spread_words(spread: Spread | None, form: str = ".3g") -> str:
    """Worst / median / best; empty when nothing is known."""
    if spread is None:
        return ""
    return " / ".join(format(value, form) for value in (spread.worst, spread.median, spread.best))


def kind_of(report: RoundReport) -> str:
    """What the round was, where it did not merge anything."""
    words = {
        "abandoned": f"abandoned, attempt {report.attempt}",
        "rescaled": "new scaler",
        "returned": "back to the best",
    }
    return words.get(report.outcome, "")
