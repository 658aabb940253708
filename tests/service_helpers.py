"""What the tests of the services share: small federations, and a client that watches them.

Everything observable is waited for on the broker: `Watch` hears all of a federation's topics.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from brokers import Client, Connect
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.services.manager import Manager
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.transport.base import Address, Delivery, open_transport
from dl_mqtt_clients.wire.messages import (
    Answer,
    Command,
    History,
    ManagerStatus,
    Manifest,
    Message,
    NodeStatus,
    Offer,
    Reply,
    Round,
    Scores,
    decode,
)
from dl_mqtt_clients.wire.messages import encode as encode_message
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.transfer import chunk, chunk_count, describe, sha256
from dl_mqtt_clients.wire.weights import encode, update_positions

FEATURES = 6
DEADLINE_S = 20.0

QUICK: dict[str, Any] = {
    "training.min_readings": 64,
    "readings.holdout_block": 16,
    "rounds.deadline_s": 30.0,
    "rounds.statistics_deadline_s": 2.0,
    "transfer.min_free_disk_bytes": 0,
    "threshold.quantile": 0.9,
    "promotion.gate": False,  # tests of other things do not wait for every node's word; `test_promotion` does
}


def readings(seed: int = 0, rows: int = 640) -> np.ndarray:
    """[rows, 6] with something to learn; every seed is another node of the same kind."""
    mixing = np.random.default_rng(99).normal(size=(2, FEATURES))
    latent = np.random.default_rng(seed).normal(size=(rows, 2))
    return (latent @ mixing * [1, 10, 0.1, 5, 1, 1] + [0, 100, 3, 0, 0, 1]).astype(np.float32)


SCALER = ScalerValues.standard(readings(1000, 2000))


def core(seed: int = 1, **changes: Any) -> Any:
    return build_core(**{"n_features": FEATURES, "hidden": (8, 2, 8), "seed": seed, "learning_rate": 0.01, **changes})


def make_settings(folder: Path, url: str, **changes: Any) -> Settings:
    """Quick ones, with all files below `folder`. Names of changes have `__` for the dot: `rounds__count=3`."""
    base = {
        **QUICK,
        "node.state_dir": str(folder / "state"),
        "artifacts.dir": str(folder / "artifacts"),
        "broker.url": url,
        "data_broker.url": url,
    }
    return Settings().replace(**(base | {name.replace("__", "."): value for name, value in changes.items()}))


def start_manager(settings: Settings, **changes: Any) -> Manager:
    """Of the small model, not running yet."""
    return Manager(changes.pop("model", None) or core(), settings=settings, **{"scaler": SCALER, **changes})


@contextmanager
def trainers(settings: Settings, nodes: Sequence[str] = ("a", "b", "c")) -> Iterator[list[Trainer]]:
    """Running ones, each with a fixed window of its own."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(Trainer(node, settings=settings, readings=readings(ord(node[-1])))) for node in nodes
        ]


def until(condition: Callable[[], object], deadline_s: float = DEADLINE_S) -> None:
    """For what shows only inside a process, where there is no event to wait for."""
    pause, end = threading.Event(), time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "nothing within the deadline"
        pause.wait(0.005)


@contextmanager
def paused(service: Service) -> Iterator[None]:
    """The service's thread does nothing within the block."""
    reached, release = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        release.wait(DEADLINE_S)

    service.loop.post(hold)
    assert reached.wait(DEADLINE_S)
    try:
        yield
    finally:
        release.set()


class Watch:
    """Hears a federation's topics; `wait_…` return what was waited for."""

    def __init__(self, client: Client, federation: str = "default") -> None:
        self.client = client
        self.deadline_s = DEADLINE_S
        self.topics = Topics(federation)
        client.transport.subscribe(f"{self.topics.root}/#")

    def seen(self, topic: str, kind: type[Message]) -> list[Any]:
        """What was decodable at this topic, oldest first."""
        found = []
        for delivery in list(self.client.messages):
            if delivery.topic == topic and delivery.payload:
                try:
                    found.append(decode(delivery.payload, kind))
                except Exception:  # noqa: BLE001 - a test's own garbage
                    continue
        return found

    def wait(self, topic: str, kind: type[Message], condition: Callable[[Any], object], what: str = "") -> Any:
        """The first message there that fits."""
        hit: list[Any] = []
        place = [0]

        def look() -> bool:
            messages = self.client.messages
            while place[0] < len(messages) and not hit:
                delivery = messages[place[0]]
                place[0] += 1
                if delivery.topic == topic and delivery.payload:
                    try:
                        message = decode(delivery.payload, kind)
                    except Exception:  # noqa: BLE001 - a test's own garbage
                        continue
                    if condition(message):
                        hit.append(message)
            return bool(hit)

        try:
            self.client.wait(look, what or f"message at {topic}", self.deadline_s)
        except BaseException:
            last = self.seen(topic, kind)[-1:]
            print(f"last at {topic}: {last}")
            raise
        return hit[0]

    def wait_next(self, topic: str, kind: type[Message]) -> Any:
        """The next message there from now on."""
        before = len(self.seen(topic, kind))
        self.client.wait(lambda: len(self.seen(topic, kind)) > before, f"next message at {topic}", DEADLINE_S)
        return self.seen(topic, kind)[before]

    def status(self, node: str, condition: Callable[[NodeStatus], object], role: str = "trainer") -> NodeStatus:
        return self.wait(self.topics.status(node, role), NodeStatus, condition, f"status of {node}/{role}")

    def listens(self, node: str, role: str = "trainer") -> None:
        """Until the node hears its readings."""
        self.status(node, lambda s: s.state not in ("stopped", "lost") and not s.readings.last_error, role)

    def manager(self, condition: Callable[[ManagerStatus], object]) -> ManagerStatus:
        return self.wait(self.topics.manager_status, ManagerStatus, condition, "status of the manager")

    def announced(self, condition: Callable[[Round], object] = lambda r: r.phase == "open") -> Round:
        return self.wait(self.topics.round, Round, condition, "announcement")

    def manifest(self, stage: str = "global", condition: Callable[[Manifest], object] = lambda _m: True) -> Manifest:
        return self.wait(self.topics.model(stage), Manifest, condition, f"manifest of {stage}")

    def reply(self, node: str, condition: Callable[[Reply], object]) -> Reply:
        return self.wait(self.topics.reply(node), Reply, condition, f"reply to {node}")

    def offer(self, node: str, condition: Callable[[Offer], object] = lambda _o: True) -> Offer:
        return self.wait(self.topics.offer(node), Offer, condition, f"offer of {node}")

    def history(self, condition: Callable[[History], object]) -> History:
        return self.wait(self.topics.history, History, condition, "history")

    def retained(self, url: str, name: str = "late") -> dict[str, Delivery]:
        """What a client that comes now finds: retained messages by topic, once a message of its own has come back."""
        found: dict[str, Delivery] = {}
        done = threading.Event()
        transport = open_transport(Address(url=url), client_id=f"{name}-{time.monotonic_ns()}")
        mark = f"{self.topics.root}/mark"

        def take(delivery: Delivery) -> None:
            if delivery.topic == mark:
                done.set()
            elif delivery.retained:
                found[delivery.topic] = delivery

        transport.subscribe(f"{self.topics.root}/#")
        transport.start(
            on_message=take, on_connected=lambda: transport.publish(mark, b"!") and None, on_disconnected=print
        )
        assert done.wait(DEADLINE_S)
        transport.stop()
        return found


class FakeTrainer:
    """Speaks the protocol by hand, and may lie. `watch` hears for it."""

    def __init__(self, watch: Watch, node: str) -> None:
        self.watch, self.node = watch, node
        self.transport = watch.client.transport

    def update(self, manifest: Manifest, *, value: float = 0.01, **_: Any) -> bytes:
        """A right update: every weight changes by `value`."""
        positions = update_positions(manifest.variables)
        return encode([np.full(manifest.variables[p].shape, value, np.float32) for p in positions], positions)

    def offer(self, announced: Round, data: bytes, **changes: Any) -> Offer:
        values = {
            "round": announced.round, "attempt": announced.attempt, "base": announced.base, "sha256": sha256(data),
            "bytes": len(data), "examples": 100, "metrics": {"loss": 0.5},
        }  # fmt: skip
        offer = Offer(**{**values, **changes})
        self.say(offer)
        return offer

    def say(self, message: Message) -> None:
        self.transport.publish(self.watch.topics.offer(self.node), msgspec.json.encode(message))

    def send(self, name: str, data: bytes, chunk_bytes: int, indices: Sequence[int] | None = None) -> None:
        for index in range(chunk_count(len(data), chunk_bytes)) if indices is None else indices:
            self.transport.publish(self.watch.topics.update(self.node, name, index), chunk(data, index, chunk_bytes))

    def contribute(self, announced: Round, data: bytes, **changes: Any) -> Reply:
        """Offer, send what is granted, and the last answer: a receipt or a refusal."""
        offer = self.offer(announced, data, **changes)
        answer = self.reply(offer, lambda r: r.kind != "wait")
        if answer.kind == "grant":
            self.send(offer.sha256, data, announced.chunk_bytes)
            answer = self.reply(offer, lambda r: r.kind in ("receipt", "refusal"))
        return answer

    def reply(self, offer: Offer, condition: Callable[[Reply], object] = lambda _r: True) -> Reply:
        return self.watch.reply(self.node, lambda r: r.sha256 == offer.sha256 and condition(r))

    def refusal(self, announced: Round, data: bytes, **changes: Any) -> str:
        answer = self.contribute(announced, data, **changes)
        assert answer.kind == "refusal", answer
        return answer.reason


class Forger:
    """Publishes models as a manager would, but may lie about anything."""

    def __init__(self, seen: Watch, *, features: Sequence[str] = ()) -> None:
        self.seen = seen
        self.model = FederatedModel.from_core(core(), scaler=SCALER, features=features)
        self.serial = 0

    def change(self) -> None:
        """Other weights from now on."""
        self.model.set_weights([w if i < 2 else w + np.float32(0.01) for i, w in enumerate(self.model.get_weights())])

    def publish(
        self,
        topic_stage: str,
        *,
        architecture: bytes | None = None,
        weights: bytes | None = None,
        leave_out: Sequence[str] = (),
        more: Mapping[str, bytes] | None = None,
        **changes: Any,
    ) -> Manifest:
        """Chunks of 1,000 bytes, then the manifest at `model/<topic_stage>`."""
        architecture = self.model.architecture if architecture is None else architecture
        weights = encode(self.model.get_weights()) if weights is None else weights
        blobs = {"architecture": architecture, "weights": weights, **(more or {})}
        described = {name: describe(data, chunk_bytes=1000) for name, data in blobs.items()}
        for name, blob in described.items():
            for index in range(chunk_count(blob.bytes, 1000)):
                if name not in leave_out:
                    topic = self.seen.topics.blob(blob.sha256, index)
                    self.seen.client.transport.publish(topic, chunk(blobs[name], index, 1000), retain=True)
        self.serial += 1
        values = {
            "stage": topic_stage, "generation": 10, "serial": self.serial, "version": sha256(b"%d" % self.serial),
            "number": self.serial, "round": 1, "lineage": "b" * 64, "blobs": described,
            "variables": self.model.variables, "threshold": 1.0, "features": self.model.features,
        }  # fmt: skip
        manifest = Manifest(**(values | changes))
        topic = self.seen.topics.model(topic_stage)
        self.seen.client.transport.publish(topic, msgspec.json.encode(manifest), retain=True)
        return manifest


def scores_of(client: Client, topic: str) -> list[Scores]:
    return [decode(d.payload, Scores) for d in list(client.messages) if d.topic == topic]


def feed(client: Client, node: str, rows: np.ndarray, *, labels: Sequence[int] | None = None, qos: int = 0) -> None:
    """Publish readings as a sensor would, 32 a message."""
    for start in range(0, len(rows), 32):
        message: dict[str, Any] = {"data": rows[start : start + 32].tolist()}
        if labels is not None:
            message["label"] = [int(v) for v in labels[start : start + 32]]
        client.transport.publish(f"reading/{node}", msgspec.json.encode(message), qos=qos)


def command(connect: Connect, seen: Watch, url: str, order: Command) -> Answer:
    """What the manager answers to it."""
    client = connect(url, f"operator-{order.command}")
    topic = seen.topics.answer(f"operator-{order.command}")
    client.transport.subscribe(topic)
    client.transport.publish(seen.topics.command, encode_message(order), response_topic=topic)
    (delivery,) = client.wait_messages(1)
    return decode(delivery.payload, Answer)
