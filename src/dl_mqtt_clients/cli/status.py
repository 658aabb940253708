"""`fedlearn status`."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_facts, print_json, print_table
from dl_mqtt_clients.errors import MessageError, TransportError

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.transport.base import Delivery
    from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus, RoundReport
    from dl_mqtt_clients.wire.topics import Topics

QUIET_S: Final = 0.4  # without a further message: all that is retained has come
LATEST: Final = 10  # rounds shown


@dataclass
class Seen:
    """What the broker holds of a federation."""

    manager: "ManagerStatus | None" = None
    nodes: "dict[tuple[str, str], NodeStatus]" = field(default_factory=dict)
    rounds: "tuple[RoundReport, ...]" = ()
    unreadable: list[str] = field(default_factory=list)

    @property
    def nothing(self) -> bool:
        return self.manager is None and not self.nodes and not self.rounds


def status(
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show a federation: its manager, nodes and latest rounds.

    Reads what they keep at the broker; `lost` is said of those who went without a word.

    Example: fedlearn status --broker mqtt://manager.local:1883
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    seen = _look(settings, timeout_s=timeout)
    if json:
        _print_json(settings, seen)
        return
    _print_manager(settings, seen)
    _print_nodes(seen)
    _print_rounds(seen)


def _look(settings: "Settings", *, timeout_s: float) -> Seen:
    from dl_mqtt_clients.cli.conversation import Conversation  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.wire.topics import Topics  # noqa: PLC0415 - the same

    topics, seen = Topics(settings.federation.name), Seen()
    with Conversation(settings, timeout_s=timeout_s) as talk:
        for pattern in (topics.manager_status, topics.history, topics.status("+", "+")):
            talk.transport.subscribe(pattern)
        for delivery in talk.deliveries(quiet_s=max(QUIET_S, min(timeout_s / 10, 2.0))):
            _note(topics, delivery, seen)
        if seen.nothing:
            raise TransportError(
                f"status: expected something of federation {settings.federation.name!r} at {talk.place}."
                " Received: nothing"
            )
    return seen


def _note(topics: "Topics", delivery: "Delivery", seen: Seen) -> None:
    from dl_mqtt_clients.wire.messages import History, ManagerStatus, NodeStatus, decode  # noqa: PLC0415

    if not delivery.payload:
        return
    try:
        if delivery.topic == topics.manager_status:
            seen.manager = decode(delivery.payload, ManagerStatus)
        elif delivery.topic == topics.history:
            seen.rounds = decode(delivery.payload, History).rounds
        else:
            node = topics.parse_node(delivery.topic)
            seen.nodes[node.node, node.role] = decode(delivery.payload, NodeStatus)
    except MessageError as error:
        seen.unreadable.append(f"{delivery.topic[:200]}: {error}")


def _print_json(settings: "Settings", seen: Seen) -> None:
    import msgspec  # noqa: PLC0415 - costs `--help` otherwise

    nodes = sorted(seen.nodes.items())
    print_json(
        {
            "time": time.time(),
            "federation": settings.federation.name,
            "broker": settings.broker.url,
            "manager": seen.manager,
            "nodes": [{"node": node, "role": role, **msgspec.to_builtins(said)} for (node, role), said in nodes],
            "history": seen.rounds,
            "unreadable": seen.unreadable,
        }
    )


def _print_manager(settings: "Settings", seen: Seen) -> None:
    manager = seen.manager
    facts: list[tuple[str, object]] = [("federation", f"{settings.federation.name} at {settings.broker.url}")]
    if manager is None:
        facts.append(("manager", "not seen"))
    else:
        refused = ", ".join(f"{count} {reason}" for reason, count in manager.refused.items())
        facts += [
            ("manager", manager.state),
            ("round", f"{manager.round}, attempt {manager.attempt} (generation {manager.generation})"),
            ("version", f"{manager.version}, in production {manager.production}"),
            ("updates", f"{manager.accepted} accepted, {sum(manager.refused.values())} refused"),
            *([("refused", refused)] if refused else []),
            *([("rejected", f"{manager.rejected} versions in a row")] if manager.rejected else []),
            *(
                [("on hold", "after a rollback nothing is promoted, until: fedlearn promote")]
                if manager.on_hold
                else []
            ),
            *([("waits for", manager.detail)] if manager.detail else []),
            *([("last error", manager.last_error)] if manager.last_error else []),
        ]
    print_facts([*facts, *(("unreadable", line) for line in seen.unreadable[:LATEST])])


def _print_nodes(seen: Seen) -> None:
    columns = (
        "node", "role", "state", ">version", ">readings", ">a second", ">malformed",
        ">round", ">loss", ">accepted", ">scored", ">anomalies", ">threshold", "detail",
    )  # fmt: skip
    print_table("Nodes", columns, (_node_row(*key, seen.nodes[key]) for key in sorted(seen.nodes)))


def _node_row(node: str, role: str, said: "NodeStatus") -> list[object]:
    trains, scores = role == "trainer", role == "predictor"
    readings = said.readings
    return [
        node, role, said.state, said.number if said.version else None,
        readings.received, readings.rate, readings.malformed,
        said.round if trains else None, said.loss, said.accepted if trains else None,
        said.scored if scores else None, said.anomalies if scores else None, said.threshold,
        said.last_error or "; ".join(_remarks(said)),
    ]  # fmt: skip


def _remarks(said: "NodeStatus") -> list[str]:
    """What a node waits for, and what is unusual about its readings."""
    from dl_mqtt_clients.aggregation.drift import MODERATE  # noqa: PLC0415 - costs `--help` otherwise

    drift = "" if said.drift is None or said.drift < MODERATE else f"drift {said.drift:.2f}"
    kept_out = f"{said.quarantined:,} readings kept out of the window" if said.quarantined else ""
    return [remark for remark in (said.detail, drift, kept_out) if remark]


def _print_rounds(seen: Seen) -> None:
    columns = (
        ">round", ">attempt", "outcome", ">version", ">updates", ">seconds",
        ">loss", ">held-out loss", ">AUROC", ">threshold", "gate", "left out",
    )  # fmt: skip
    from dl_mqtt_clients.dashboard.agreed import fate_of  # noqa: PLC0415 - costs `--help` otherwise

    rows = (
        (
            r.round, r.attempt, r.outcome, r.number if r.version else None, len(r.participants), r.seconds,
            r.metrics.loss, r.metrics.holdout_loss, r.metrics.auroc, r.threshold, fate_of(r)[0],
            ", ".join(r.left_out),
        )
        for r in seen.rounds[-LATEST:]
    )  # fmt: skip
    print_table("Latest rounds", columns, rows)
