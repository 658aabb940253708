"""The tables of the report. Pure."""

from collections.abc import Iterable

from dl_mqtt_clients.dashboard.agreed import alert_words, fate_of, kind_of, made, scaler_words, spread_words
from dl_mqtt_clients.dashboard.comparison import Measured
from dl_mqtt_clients.wire.messages import RoundReport

ROUND_COLUMNS = (
    "round", "version", "updates", "readings", "training loss", "held-out loss", "worst / median / best node",
    "AUROC, live", "average precision", "threshold", "gate", "seconds",
)  # fmt: skip


def model_row(model: Measured) -> dict[str, str]:
    return {
        "name": model.name,
        "auroc": digits(model.auroc),
        "average_precision": digits(model.average_precision),
        "loss": short(model.loss),
    }


def round_row(report: RoundReport) -> dict[str, object]:
    """Cells, and whether the version was rejected. The reason is the last cell's."""
    metrics, (fate, why) = report.metrics, fate_of(report)
    kind, spread = kind_of(report), metrics.loss_spread
    is_round = report.outcome in ("merged", "abandoned")
    return {
        "rejected": fate == "rejected",
        "why": why,
        "cells": [
            f"{report.round} ({kind})" if kind else str(report.round),
            str(report.number) if report.version else "–",
            f"{len(report.participants)}" if is_round else "–",
            f"{metrics.examples:,}" if is_round else "–",
            short(metrics.loss),
            short(metrics.holdout_loss),
            f"{spread_words(spread)}, {spread.worst_node}" if spread else "–",
            digits(metrics.auroc),
            digits(metrics.average_precision),
            short(report.threshold),
            fate or "–",
            f"{report.seconds:.1f}",
        ],
    }


def agreed_rows(reports: Iterable[RoundReport], *, threshold: float | None, quantile: float) -> list[tuple[str, str]]:
    """What the federation agreed on and found, without a reading leaving a node: name and words."""
    known = made(reports)
    promoted = [report for report in known if fate_of(report)[0] == "promoted"]
    rejected = [report for report in known if fate_of(report)[0] == "rejected"]
    last = promoted[-1] if promoted else None
    rows = [
        ("scaler", scaler_words(known) or "the base model's"),
        (
            "threshold",
            "none" if threshold is None else f"{short(threshold)}: {quantile:.1%} of the held-out scores lie below",
        ),
        ("in production", f"version {last.number}: {fate_of(last)[1]}" if last else "the base model"),
        *((f"version {report.number}", f"rejected: {fate_of(report)[1]}") for report in rejected),
    ]
    return rows + (_found_rows(last) if last else [])


def _found_rows(report: RoundReport) -> list[tuple[str, str]]:
    """What the nodes' sums say of one version."""
    metrics = report.metrics
    rows = [
        ("AUROC", digits(metrics.auroc)),
        ("average precision", digits(metrics.average_precision)),
        ("alerts", alert_words(metrics.verdicts)),
    ]
    for name, spread, form in (
        ("AUROC by node", metrics.auroc_spread, ".3f"),
        ("held-out loss by node", metrics.loss_spread, ".3g"),
    ):
        if spread is not None:
            rows.append((name, f"{spread_words(spread, form)} (worst / median / best); worst on {spread.worst_node}"))
    return [(name, words) for name, words in rows if words and words != digits(None)]


def digits(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
