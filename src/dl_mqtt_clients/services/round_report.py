"""What a round's attempt came to, for history and trail: who came, with what, and who did not."""

from collections.abc import Callable, Collection, Mapping, Sequence

from dl_mqtt_clients.aggregation.rounds import Accepted
from dl_mqtt_clients.aggregation.spool import Entry
from dl_mqtt_clients.aggregation.store import OpenRound
from dl_mqtt_clients.services.clock import as_text, now_text
from dl_mqtt_clients.wire.messages import Metrics, Participant, RoundReport


def report_of(
    open_round: OpenRound,
    *,
    is_merged: bool,
    seconds: float,
    accepted: Collection[Accepted],
    entries: Sequence[Entry],
    drawn: Collection[str],
    refused: Mapping[str, str],
) -> RoundReport:
    """Without what the caller knows of the version: base, lineage, codec, strategy.

    Args:
        open_round: which.
        is_merged: or abandoned.
        seconds: since it was opened.
        accepted: updates that counted.
        entries: the same in the spool, which say when their readings came.
        drawn: live nodes that were asked.
        refused: node -> why.

    """
    accepted = sorted(accepted, key=lambda a: a.node)
    came = {entry.node: entry for entry in entries}
    examples = sum(a.examples for a in accepted)
    losses = [(a.loss, a.examples) for a in accepted if a.loss is not None]
    loss = sum(value * n for value, n in losses) / sum(n for _, n in losses) if losses else None
    nodes = {a.node for a in accepted}
    return RoundReport(
        round=open_round.round,
        attempt=open_round.attempt,
        outcome="merged" if is_merged else "abandoned",
        reason=open_round.reason,
        seconds=round(seconds, 4),
        asked=len(nodes.union(drawn)),
        participants=tuple(_participant(a, came[a.node], share=a.examples / examples) for a in accepted),
        refused=dict(refused),
        left_out=tuple(sorted(set(drawn) - nodes)),
        metrics=Metrics(loss=loss, examples=examples, nodes=len(accepted)),
        data_from=_time(min, [came[node].data_from for node in nodes]),
        data_to=_time(max, [came[node].data_to for node in nodes]),
        finished=now_text(),
    )


def _participant(accepted: Accepted, entry: Entry, *, share: float) -> Participant:
    return Participant(
        node=accepted.node,
        examples=accepted.examples,
        weight=share,
        loss=accepted.loss,
        staleness=accepted.staleness,
        data_from=_time(min, [entry.data_from]),
        data_to=_time(max, [entry.data_to]),
    )


def _time(pick: Callable[[list[float]], float], times: Sequence[float | None]) -> str:
    """The first or the last of them as text; empty where one is not known, or there are none."""
    known = [time_s for time_s in times if time_s is not None]
    return as_text(pick(known)) if known and len(known) == len(times) else ""
