"""What happens, a line each, where there is no terminal to draw on. Pure."""

from collections.abc import Iterator

from dl_mqtt_clients.dashboard.agreed import fate_of
from dl_mqtt_clients.dashboard.fleet import Fleet, printable
from dl_mqtt_clients.wire.messages import RoundReport


def news(before: Fleet, after: Fleet) -> Iterator[str]:
    """Lines about what `after` has that `before` had not."""
    yield from _rounds(before, after)
    for key, status in after.nodes.items():
        earlier = before.nodes.get(key)
        if status.state == "lost" and (earlier is None or earlier.state != "lost"):
            yield f"{key[0]}: lost"
        elif status.last_error and (earlier is None or earlier.last_error != status.last_error):
            yield f"{key[0]}: {printable(status.last_error)}"


def describe_round(report: RoundReport) -> str:
    """`round 3 merged: 3 updates of 4,500 readings, loss 0.0123, AUROC 0.912, 1.8 s`."""
    if report.outcome == "rescaled":
        return f"version {report.number}: a new scaler, from the sums of {len(report.participants)} nodes"
    if report.outcome == "returned":
        return f"version {report.number}: back to the best one's weights"
    metrics = report.metrics
    words = (
        f"round {report.round} {report.outcome}: {len(report.participants)} updates of {metrics.examples:,} readings"
    )
    if report.left_out:
        words += f", without {', '.join(report.left_out)}"
    if metrics.loss is not None:
        words += f", loss {metrics.loss:.4g}"
    if metrics.auroc is not None:
        words += f", AUROC {metrics.auroc:.3f}"
    return f"{words}, {report.seconds:.1f} s"


def _rounds(before: Fleet, after: Fleet) -> Iterator[str]:
    """A round is told when it has ended, and what its nodes say of the version once they have."""
    known = {(report.round, report.attempt): report for report in before.rounds}
    for report in after.rounds:
        earlier = known.get((report.round, report.attempt))
        if earlier is None:
            yield describe_round(report)
        fate, why = fate_of(report)
        if fate and (earlier is None or fate != fate_of(earlier)[0]):
            yield f"version {report.number} {fate}: {printable(why)}"
        if earlier is None:
            continue
        if earlier.metrics.auroc is None and report.metrics.auroc is not None:
            yield f"version {report.number}: AUROC {report.metrics.auroc:.3f} on the predictors' labelled readings"
