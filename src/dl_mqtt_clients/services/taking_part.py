"""Whether a trainer takes part in an announced round: pure functions of the announcement and of what the node has."""

from collections.abc import Sequence

from dl_mqtt_clients.aggregation.cohort import is_drawn
from dl_mqtt_clients.wire.codecs import is_known
from dl_mqtt_clients.wire.messages import Round


def why_not(
    announced: Round | None,
    *,
    node: str,
    attributes: Sequence[str],
    version: str | None,
    is_done: bool,
    held: int | None,
    new: int,
) -> str:
    """What keeps a node from it; empty when nothing does.

    Args:
        announced: the round; None: none is.
        node: its id.
        attributes: its own.
        version: that it holds.
        is_done: whether it has taken part already.
        held: readings it holds; None: a data set, of which any number will do.
        new: readings since it last took part.

    """
    if announced is None or announced.phase != "open":
        return "a scaler to be agreed on" if announced and announced.phase == "scaling" else "no open round"
    drawn = is_drawn(
        announced.seed,
        round_number=announced.round,
        attempt=announced.attempt,
        node=node,
        fraction=announced.fraction,
    )
    lacking = [wanted for wanted in announced.require if wanted not in attributes]
    least, least_new = announced.training.min_readings, announced.training.min_new_readings
    checks = (
        (version != announced.base, f"version {announced.number} to come"),
        (is_done, f"round {announced.round} is done"),
        (not drawn, f"not drawn for round {announced.round}"),
        (not is_known(announced.codec), f"codec {announced.codec} is not known here"),
        (bool(lacking), f"round {announced.round} asks for {', '.join(lacking)}"),
        (held is not None and held < least, f"{held} of {least} readings"),
        (held is not None and new < least_new, f"{new} of {least_new} new readings"),
    )
    return next((reason for holds, reason in checks if holds), "")


def still_counts(announced: Round, now: Round | None) -> bool:
    """Whether an update for `announced` may be counted when `now` is announced: in mode async also after its round."""
    if now is None or now is announced:
        return now is announced
    if now.mode == "async" and announced.mode == "async":
        return now.generation == announced.generation and now.round >= announced.round
    return _attempt(now) == _attempt(announced)


def _attempt(announced: Round) -> tuple[int, int, int, str]:
    return announced.generation, announced.round, announced.attempt, announced.base
