"""Federations as their messages would make them."""

from dl_mqtt_clients.dashboard.fleet import Fleet, fold
from dl_mqtt_clients.wire.messages import (
    Anomaly,
    History,
    ManagerStatus,
    Metrics,
    NodeStatus,
    Participant,
    Readings,
    Reply,
    Round,
    RoundReport,
    Training,
    encode,
)
from dl_mqtt_clients.wire.topics import Topics

VERSION = "a" * 64
TOPICS = Topics("demo")


def report(
    number: int, *, outcome="merged", auroc=0.9, nodes=("trainer-1", "trainer-2"), left_out=(), **changes
) -> RoundReport:
    participants = tuple(Participant(node=node, examples=500, weight=1 / len(nodes)) for node in nodes)
    known = {
        "round": number,
        "attempt": 1,
        "outcome": outcome,
        "version": VERSION if outcome != "abandoned" else None,
        "number": number if outcome != "abandoned" else 0,
        "seconds": 1.5,
        "participants": participants,
        "left_out": left_out,
        "metrics": Metrics(loss=0.5 / number, auroc=auroc, examples=500 * len(nodes), nodes=len(nodes)),
        "threshold": 0.02,
    }
    return RoundReport(**{**known, **changes})


def trainer(**changes) -> NodeStatus:
    known = {"state": "waiting", "version": VERSION, "number": 2, "round": 3, "readings": Readings(rate=250.0)}
    return NodeStatus(**{**known, **changes})


def announcement(number: int = 3, attempt: int = 1, **training) -> Round:
    return Round(
        generation=1, round=number, attempt=attempt, phase="open", base=VERSION, target_updates=2,
        training=Training(**{"min_new_readings": 400, **training}),
    )  # fmt: skip


def told(*messages, fleet: Fleet | None = None, now: float = 10.0) -> Fleet:
    """A fleet after these (topic, message)s."""
    fleet = fleet or Fleet(topics=TOPICS)
    for topic, message in messages:
        fleet = fold(fleet, topic, message if isinstance(message, bytes) else encode(message), now=now)
    return fleet


def receipt(number: int = 3, attempt: int = 1) -> Reply:
    return Reply(kind="receipt", round=number, attempt=attempt, sha256=VERSION)


def anomaly(score: float = 0.5, name: str = "reading-1") -> Anomaly:
    return Anomaly(id=name, score=score, threshold=0.1, version=VERSION)


def busy(rounds: int = 6, trainers: int = 3, predictors: int = 2) -> Fleet:
    """In the middle of a demonstration."""
    nodes = [
        (TOPICS.status(f"trainer-{i}", "trainer"), trainer(new_readings=100 * i, loss=0.1 / i))
        for i in range(1, trainers + 1)
    ]
    nodes += [
        (TOPICS.status(f"predictor-{i}", "predictor"), trainer(state="scoring", scored=2000, anomalies=1234))
        for i in range(1, predictors + 1)
    ]
    reports = tuple(report(number, auroc=1 - 0.5 / number) for number in range(1, rounds + 1))
    return told(
        (TOPICS.manager_status, ManagerStatus(state="collecting", version=rounds)),
        (TOPICS.round, announcement(3)),
        *nodes,
        (TOPICS.history, History(generation=1, rounds=reports)),
        *[(TOPICS.anomaly("predictor-1"), anomaly(name=f"reading-{i}")) for i in range(30)],
    )
