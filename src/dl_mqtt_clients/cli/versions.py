"""`fedlearn versions | promote | rollback | diff`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import console, print_facts, print_json, print_table
from dl_mqtt_clients.cli.send import tell

if TYPE_CHECKING:
    from dl_mqtt_clients.cli.asking import Trail
    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.wire.messages import Answer, Difference, Manifest, RoundReport, Spread


def versions(
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show the versions of the model: what made them, how good they are, what became of them.

    Reads the history that the manager keeps at the broker. Losses are of held-out readings; worst, median and best are
    over the nodes.

    Example: fedlearn versions --broker mqtt://manager.local:1883
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    trail = _look(settings, timeout_s=timeout)
    if json:
        print_json(_as_json(settings, trail))
    else:
        _print_trail(settings, trail)


def promote(
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Number or SHA-256; without it the newest one.")
    ] = None,
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Put a version into production, whatever the gate found.

    Ends the hold after a rollback: later versions that the gate finds as good are promoted again.
    Waits for the manager's answer; the exit code is 1 when it refuses, or when none answers in time.

    Example: fedlearn promote
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    tell("promote", _order(settings, "promote", version, timeout_s=timeout), json=json)


def rollback(
    version: Annotated[
        str | None,
        typer.Argument(metavar="[VERSION]", help="Number or SHA-256; without it the one in production before."),
    ] = None,
    *,
    hold: Annotated[
        bool, typer.Option("--hold/--no-hold", help="Whether it stays in production until fedlearn promote.")
    ] = True,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Put an earlier version into production.

    All predictors take it at once. It stays there: rounds go on, but no version is promoted until fedlearn promote.
    With --no-hold the next version that the gate finds as good replaces it.

    Example: fedlearn rollback 12
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    tell("rollback", _order(settings, "rollback", version, timeout_s=timeout, hold=hold), json=json)


def diff(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="Number or SHA-256.")],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="The same of another one; without it the one it was built on."),
    ] = None,
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show how much each variable of the model changed between two versions.

    The change is the Euclidean norm of the difference; relative, it is divided by the norm of the earlier values.

    Example: fedlearn diff 12 11
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    answer = _order(settings, "diff", version, other, timeout_s=timeout)
    if not answer.ok:
        tell("diff", answer, json=json)
    elif json:
        print_json({"version": version, "other": other, "variables": [_change(d) for d in answer.differences]})
    else:
        columns = ("variable", "role", ">change", ">relative")
        rows = [_change(d) for d in answer.differences]
        print_table(
            f"Version {version} against {other or 'the one it was built on'}", columns, (list(r.values()) for r in rows)
        )


def _look(settings: "Settings", *, timeout_s: float) -> "Trail":
    from dl_mqtt_clients.cli.asking import look_up  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.cli.conversation import Conversation  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.topics import Topics  # noqa: PLC0415 - the same

    with Conversation(settings, timeout_s=timeout_s) as talk:
        return look_up(talk, Topics(settings.federation.name))


def _order(settings: "Settings", command: str, *versions: str | None, timeout_s: float, hold: bool = True) -> "Answer":
    """The manager's answer to a command about up to two versions, which are looked up by their numbers."""
    from dl_mqtt_clients.cli.asking import ask, look_up  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.cli.conversation import Conversation  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.messages import Command  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.topics import Topics  # noqa: PLC0415 - the same

    topics = Topics(settings.federation.name)
    with Conversation(settings, timeout_s=timeout_s) as talk:
        named = [text for text in versions if text is not None]
        trail = look_up(talk, topics) if named else None
        version, other, *_ = [*(trail.resolve(text) for text in named if trail), None, None]
        order = Command(command=command, version=version, other=other, hold=hold)  # type: ignore[arg-type]
        return ask(talk, topics, order)


# ---- what is shown ----


def _as_json(settings: "Settings", trail: "Trail") -> dict[str, Any]:
    return {
        "federation": settings.federation.name,
        "broker": settings.broker.url,
        "newest": _stage(trail.newest),
        "production": _stage(trail.production),
        "versions": trail.reports,
        "omitted": trail.omitted,
    }


def _stage(manifest: "Manifest | None") -> dict[str, Any] | None:
    names = ("number", "version", "round", "lineage", "threshold", "metrics")
    return None if manifest is None else {name: getattr(manifest, name) for name in names}


def _print_trail(settings: "Settings", trail: "Trail") -> None:
    stages = (("newest", trail.newest), ("production", trail.production))
    facts: list[tuple[str, object]] = [("federation", f"{settings.federation.name} at {settings.broker.url}")]
    facts += [(name, f"version {m.number} ({m.version[:12]})" if m else "none") for name, m in stages]
    facts += [("older ones", f"{trail.omitted} more did not fit into the history")] if trail.omitted else []
    print_facts(facts)
    columns = (
        ">version", "sha256", ">round", ">base", "by", ">loss", ">held out", ">AUROC", ">av. prec.",
        "worst/median/best", "worst node", ">threshold", "what became of it",
    )  # fmt: skip
    print_table("Versions", columns, (_row(trail, report) for report in trail.reports))
    windows = [_window(report) for report in trail.reports if report.data_from or report.data_to]
    if windows:
        headings = (">version", ">readings", "came from", "to")
        print_table("What they learnt from, by the manager's clock, in UTC", headings, windows)
    if not trail.reports:
        console().print("None was made yet: rounds make them.")


def _row(trail: "Trail", report: "RoundReport") -> list[object]:
    metrics = report.metrics
    return [
        report.number, (report.version or "")[:8], report.round, report.number - 1, _contributors(report),
        metrics.loss, metrics.holdout_loss, metrics.auroc, metrics.average_precision,
        _spread(metrics.loss_spread), metrics.loss_spread and metrics.loss_spread.worst_node,
        report.threshold, _fate(trail, report),
    ]  # fmt: skip


def _window(report: "RoundReport") -> list[object]:
    times = (text.removesuffix("+00:00").replace("T", " ") for text in (report.data_from, report.data_to))
    return [report.number, report.metrics.examples, *times]


def _contributors(report: "RoundReport") -> str:
    if report.outcome == "returned":
        return "return to the best"
    count = len(report.participants) or report.metrics.nodes
    nodes = "1 node" if count == 1 else f"{count} nodes"
    return f"{nodes}, new scaler" if report.outcome == "rescaled" else nodes


def _spread(spread: "Spread | None") -> str:
    from dl_mqtt_clients.dashboard.agreed import spread_words  # noqa: PLC0415 - costs `--help` otherwise

    return spread_words(spread).replace(" ", "")  # one word: not broken into lines


def _fate(trail: "Trail", report: "RoundReport") -> str:
    """Promoted or not and why; in production, newest."""
    from dl_mqtt_clients.dashboard.agreed import fate_of  # noqa: PLC0415 - costs `--help` otherwise

    fate, why = fate_of(report)
    said = f"{fate}: {why}" if fate else "not judged yet"
    marks = [
        mark
        for mark, manifest in (("IN PRODUCTION", trail.production), ("newest", trail.newest))
        if manifest and manifest.version == report.version
    ]
    return ", ".join([*marks, said])


def _change(difference: "Difference") -> dict[str, Any]:
    relative = difference.change / difference.norm if difference.norm else None
    return {
        "variable": difference.path, "role": difference.role, "change": difference.change, "relative": relative,
    }  # fmt: skip
