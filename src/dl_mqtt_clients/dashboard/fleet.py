"""A federation as its messages tell it, and nothing else: `fold(fleet, topic, payload, now=…) -> fleet`.

Pure: clock and connection belong to the caller, so that a view can be replayed and tested.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.wire.messages import (
    Anomaly,
    History,
    ManagerStatus,
    Message,
    NodeStatus,
    Reply,
    Round,
    RoundReport,
    decode,
)
from dl_mqtt_clients.wire.topics import NodeTopic, Role, Topics

ANOMALIES_KEPT: Final = 50
RATE_OVER_S: Final = 5  # messages a second are a mean over so many seconds

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Sighting:
    """An anomaly, where and when it was heard of."""

    node: str
    anomaly: Anomaly
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything heard so far. Times are the caller's clock, in seconds."""

    topics: Topics = field(default_factory=Topics)
    manager: ManagerStatus | None = None
    round: Round | None = None
    nodes: Mapping[tuple[str, str], NodeStatus] = field(default_factory=dict)  # (id, role) -> last status
    receipts: frozenset[str] = frozenset()  # nodes whose update counts in the open attempt
    rounds: tuple[RoundReport, ...] = ()  # oldest first
    anomalies: tuple[Sighting, ...] = ()  # newest first
    messages: int = 0
    unreadable: int = 0
    arrivals: tuple[tuple[int, int], ...] = ()  # (whole second, messages in it), oldest first

    @property
    def merged(self) -> tuple[RoundReport, ...]:
        """Reports of the rounds that made a version."""
        return tuple(report for report in self.rounds if report.outcome == "merged")

    def in_role(self, role: Role) -> dict[str, NodeStatus]:
        """Last status of each node in this role, by id."""
        return {node: status for (node, of), status in sorted(self.nodes.items()) if of == role}

    def message_rate(self, *, now: float) -> float:
        """Messages a second, over the last whole seconds."""
        second = int(now)
        recent = [count for at, count in self.arrivals if second - RATE_OVER_S <= at < second]
        return sum(recent) / RATE_OVER_S

    def reading_rate(self) -> float:
        """Readings a second on all nodes together, as they say."""
        return sum(status.readings.rate for status in self.nodes.values() if is_alive(status))

    def share_done(self, node: str) -> float:
        """How far a trainer is with the open round, 0…1: gathering readings is the first half, fitting the second."""
        status = self.nodes.get((node, "trainer"))
        if node in self.receipts:
            return 1.0
        if status is None or self.round is None or status.round != self.round.round:
            return 0.0
        if status.state == "fitting":
            return 0.5 + 0.4 * status.progress
        if status.state == "offering":
            return 0.95
        training = self.round.training
        wanted = max(training.min_new_readings, training.min_readings if not status.accepted else 0)
        held = status.new_readings if training.min_new_readings else status.window
        return 0.5 * min(1.0, held / wanted) if wanted else 0.0

    def round_done(self) -> float:
        """How far the open round is, 0…1."""
        trainers = [node for node, status in self.in_role("trainer").items() if is_alive(status)]
        return sum(map(self.share_done, trainers)) / len(trainers) if trainers else 0.0


def is_alive(status: NodeStatus | ManagerStatus) -> bool:
    return status.state not in ("lost", "stopped", "finished")


def printable(text: str) -> str:
    """One line without control characters: text from the network must not steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def subscriptions(topics: Topics) -> tuple[str, ...]:
    """What a fleet is folded from: all that is JSON. Models and updates are left out."""
    return (
        topics.manager_status,
        topics.round,
        topics.history,
        topics.status("+", "+"),
        topics.statistics("+", "+"),
        topics.offer("+"),
        topics.reply("+"),
        topics.anomaly("+"),
    )


def fold(fleet: Fleet, topic: str, payload: bytes, *, now: float) -> Fleet:
    """The fleet after one more message. What cannot be read is counted, and changes nothing else."""
    fleet = replace(fleet, messages=fleet.messages + 1, arrivals=_arrived(fleet.arrivals, int(now)))
    try:
        return _told(fleet, topic, payload, now)
    except MessageError:
        return replace(fleet, unreadable=fleet.unreadable + 1)


def _arrived(arrivals: tuple[tuple[int, int], ...], second: int) -> tuple[tuple[int, int], ...]:
    kept = tuple(entry for entry in arrivals if entry[0] >= second - RATE_OVER_S)
    if kept and kept[-1][0] >= second:
        return (*kept[:-1], (kept[-1][0], kept[-1][1] + 1))
    return (*kept, (second, 1))


def _told(fleet: Fleet, topic: str, payload: bytes, now: float) -> Fleet:
    topics = fleet.topics
    if topic == topics.manager_status:
        return replace(fleet, manager=_optional(payload, ManagerStatus))
    if topic == topics.history:
        history = _optional(payload, History)
        return replace(fleet, rounds=history.rounds if history else ())
    if topic == topics.round:
        return _announced(fleet, _optional(payload, Round))
    about = topics.parse_node(topic)
    handler = _OF_NODES.get(about.kind)
    return handler(fleet, about, payload, now) if handler else fleet


def _optional(payload: bytes, kind: type[M]) -> M | None:
    """None for an empty payload, which clears a retained topic."""
    return decode(payload, kind) if payload else None


def _announced(fleet: Fleet, announced: Round | None) -> Fleet:
    same = _attempt(announced) == _attempt(fleet.round)
    return replace(fleet, round=announced, receipts=fleet.receipts if same else frozenset())


def _attempt(announced: Round | None) -> tuple[int, int, int] | None:
    return None if announced is None else (announced.generation, announced.round, announced.attempt)


def _node_status(fleet: Fleet, about: NodeTopic, payload: bytes, _now: float) -> Fleet:
    nodes = {key: status for key, status in fleet.nodes.items() if key != (about.node, about.role)}
    status = _optional(payload, NodeStatus)
    return replace(fleet, nodes=nodes | {(about.node, about.role): status} if status else nodes)


def _reply(fleet: Fleet, about: NodeTopic, payload: bytes, _now: float) -> Fleet:
    reply, announced = decode(payload, Reply), fleet.round
    if reply.kind != "receipt" or announced is None:
        return fleet
    if (reply.round, reply.attempt) != (announced.round, announced.attempt):
        return fleet
    return replace(fleet, receipts=fleet.receipts | {about.node})


def _anomaly(fleet: Fleet, about: NodeTopic, payload: bytes, now: float) -> Fleet:
    seen = Sighting(about.node, decode(payload, Anomaly), now)
    return replace(fleet, anomalies=(seen, *fleet.anomalies[: ANOMALIES_KEPT - 1]))


_OF_NODES: Final[Mapping[str, Callable[[Fleet, NodeTopic, bytes, float], Fleet]]] = {
    "status": _node_status,
    "reply": _reply,
    "anomaly": _anomaly,
}
