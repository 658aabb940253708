"""What a round is begun with: rules and plan, made from the settings, the newest version and who lives."""

from pathlib import Path

from dl_mqtt_clients.aggregation.rounds import RoundPlan
from dl_mqtt_clients.aggregation.store import OpenRound, Rules
from dl_mqtt_clients.aggregation.strategies import Strategy, read_strategy
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Training


def strategy_of(settings: Settings, text: str) -> Strategy:
    """Parts of `rounds.rules_folder` count too."""
    return read_strategy(text, folders=[Path(settings.rounds.rules_folder)])


def rules_of(settings: Settings, training: Training) -> Rules:
    """What stays as it is while the round is open, whatever the settings become."""
    rounds = settings.rounds
    strategy = rounds.strategy
    if rounds.mode == "async" and not strategy_of(settings, strategy).weighs_staleness:
        strategy += " @ PolynomialStaleness"
    return Rules(
        strategy=strategy,
        codec=settings.transfer.codec,
        max_delta=rounds.max_delta,
        max_examples=rounds.max_examples or training.window * training.epochs,
        max_updates=max(rounds.target_updates, 1000),
        objective=training.objective,
    )


def plan_of(
    settings: Settings,
    open_round: OpenRound,
    *,
    versions: Versions,
    recent: dict[str, str],
    max_examples: int,
    least_updates: int,
    update_bytes: tuple[int, int],
    live: int,
) -> RoundPlan:
    """The engine's plan.

    Args:
        settings: `rounds` and `transfer` count.
        open_round: which.
        versions: the newest is its base.
        recent: node -> hash of its last update in a merged round.
        max_examples: cap of an update's examples.
        least_updates: what the strategy needs.
        update_bytes: the smallest and the largest update that can be.
        live: trainers; 0: none was heard yet.

    """
    rounds, transfer = settings.rounds, settings.transfer
    smallest, largest = update_bytes
    # Updates that may come unasked, and so at once; before anybody was heard, any number.
    most = max(live or rounds.target_updates or float("inf"), rounds.target_updates, rounds.min_updates)
    fits = largest * most * open_round.fraction <= transfer.inline_bytes
    return RoundPlan(
        round=open_round.round,
        attempt=open_round.attempt,
        base=versions.current.version,
        seed=settings.federation.seed,
        mode=rounds.mode,
        stale=versions.stale(rounds.max_staleness) if rounds.mode == "async" else {},
        recent=recent,
        fraction=open_round.fraction,
        target_updates=rounds.target_updates,
        min_updates=max(rounds.min_updates, least_updates),
        renew_s=rounds.deadline_s,
        max_examples=max_examples,
        update_bytes=(smallest, min(largest, transfer.max_update_bytes)),
        chunk_bytes=transfer.chunk_bytes,
        inline_bytes=largest if fits else 0,
    )
