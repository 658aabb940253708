"""The processes that `benchmarks.chaos` kills: `python -m benchmarks.chaos_nodes ROLE FOLDER URL KIND ROUNDS [NODE]`.

Each appends what it did to a ledger of its own, before the world hears of it, in one write: a kill loses no line.

    offered  {node, sha256, round, attempt, base, examples}   an update is about to be offered; its bytes are kept
    receipt  {node, sha256, round}                            the manager is about to send it
    heard    {node, sha256}                                   the trainer got it
    merging  {round, updates: {node: sha256}}                 what the next version is about to be made of
    kill     {victim}                                         of `benchmarks.chaos` itself
"""

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from dl_mqtt_clients.wire.messages import Offer, Reply, decode

NODES = 4
FEATURES = 6
STRATEGY = "FedAvg() @ Mean()"  # one that the check renders by itself


class Ledger:
    """Lines of JSON, whole or absent, whatever happens to the process."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, **facts: object) -> None:
        os.write(self._file, json.dumps({"what": what, "at": time.time(), **facts}).encode() + b"\n")


def settings(folder: Path, url: str, kind: str):
    """`kind`: fixed (arrays, all nodes), live (streams, two at the deadline) or async (a buffer of three)."""
    from dl_mqtt_clients import Settings

    changes = {
        "broker.url": url, "data_broker.url": url, "node.state_dir": f"{folder}/state",
        "artifacts.dir": f"{folder}/artifacts", "training.epochs": 2, "training.min_readings": 64,
        "readings.holdout_block": 16, "rounds.strategy": STRATEGY, "rounds.keep_versions": 1_000_000,
        "rounds.statistics_deadline_s": 0.5, "transfer.chunk_bytes": 256, "transfer.chunks_in_flight": 8,
        "transfer.inline_bytes": 0, "transfer.min_free_disk_bytes": 0, "log.level": "info",
    }  # fmt: skip
    changes |= {
        "fixed": {"rounds.target_updates": NODES, "rounds.min_updates": NODES, "rounds.deadline_s": 120.0},
        "live": {
            "rounds.target_updates": NODES, "rounds.min_updates": 2, "rounds.deadline_s": 2.5,
            "training.min_new_readings": 128, "training.window": 600,
        },
        "async": {
            "rounds.mode": "async", "rounds.target_updates": 3, "rounds.min_updates": 2, "rounds.deadline_s": 4.0,
            "training.min_new_readings": 128, "training.window": 600,
        },
    }[kind]  # fmt: skip
    return Settings().replace(**changes)


def readings(seed: int, rows: int = 640) -> np.ndarray:
    """[rows, 6] with something to learn; every seed is another node of the same kind."""
    mixing = np.random.default_rng(99).normal(size=(2, FEATURES))
    return (np.random.default_rng(seed).normal(size=(rows, 2)) @ mixing).astype(np.float32)


def manager(folder: Path, url: str, kind: str, rounds: int):
    from dl_mqtt_clients import Manager
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core

    ledger = Ledger(folder / "ledger", "manager")

    class Recorded(Manager):
        def _reply(self, node, reply):
            if reply.kind == "receipt":
                ledger.write("receipt", node=node, sha256=reply.sha256, round=reply.round)
            super()._reply(node, reply)

    made = Recorded(
        build_core(n_features=FEATURES, hidden=(8, 2, 8), seed=1, learning_rate=0.01),
        settings=settings(folder, url, kind),
        rounds=rounds,
    )
    merge = made.versions.merge

    def recorded_merge(merged, *, round_number, updates, **rest):
        ledger.write("merging", round=round_number, updates=updates)
        merge(merged, round_number=round_number, updates=updates, **rest)

    made.versions.merge = recorded_merge
    return made


def trainer(folder: Path, url: str, kind: str, node: str):
    from dl_mqtt_clients import Trainer

    ledger, kept = Ledger(folder / "ledger", node), folder / "updates"
    kept.mkdir(exist_ok=True)

    class Recorded(Trainer):
        def _message(self, delivery):
            if delivery.topic == self.topics.reply(self.node_id):
                reply = decode(delivery.payload, Reply)
                if reply.kind == "receipt":
                    ledger.write("heard", node=self.node_id, sha256=reply.sha256)
            super()._message(delivery)

    fixed = readings(int(node[-1])) if kind == "fixed" else None
    made = Recorded(node, settings=settings(folder, url, kind), readings=fixed)
    send = made.link.send

    def recorded_send(topic, message, **rest):
        if isinstance(message, Offer) and not (kept / message.sha256).exists():
            part = kept / f".{message.sha256}"
            part.write_bytes((made.folder / "update.safetensors").read_bytes())  # durable before it is offered
            facts = {k: getattr(message, k) for k in ("sha256", "round", "attempt", "base", "examples")}
            ledger.write("offered", node=node, **facts)
            part.rename(kept / message.sha256)
        return send(topic, message, **rest)

    made.link.send = recorded_send
    return made


def generator(folder: Path, url: str, kind: str):
    from dl_mqtt_clients import Dataset, Generator

    x = readings(7, 20_000)
    names = tuple(f"f{i}" for i in range(FEATURES))
    rows = Dataset(name="chaos", x=x, y=np.zeros(len(x), np.int8), features=names)
    fed = settings(folder, url, kind).replace(**{"generator.rate": 400.0, "generator.batch": 16})
    return Generator(rows, settings=fed, nodes=node_names())


def node_names() -> list[str]:
    return [f"node{i}" for i in range(NODES)]


def main(role: str, folder: str, url: str, kind: str, rounds: str, *node: str) -> None:
    from dl_mqtt_clients.cli.running import Stopper

    stopper = Stopper()
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s")
    make = {"manager": manager, "trainer": trainer, "generator": generator}[role]
    last = {"manager": [int(rounds)], "trainer": list(node), "generator": []}[role]
    stopper.run(make(Path(folder), url, kind, *last))


if __name__ == "__main__":
    main(*sys.argv[1:])
