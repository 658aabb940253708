"""Offer to reply through a real manager process, one offer after the other, each under a node name of its own.

`grant` is the way through broker, manager and back; `receipt` sends the update with its offer (inline), and ends when
the manager has checked it, made it durable (two fsyncs) and said so.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import child, embedded, mosquitto, mosquitto_binary, nsl_core
from benchmarks.raw import RawClient
from dl_mqtt_clients.wire.messages import Manifest, Offer, Reply, Round, decode, encode
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.transfer import sha256
from dl_mqtt_clients.wire.weights import encode as encode_weights
from dl_mqtt_clients.wire.weights import update_positions

OFFERS, WARM_UP = 300, 20
MANAGED = "manager is ready"


def run() -> list[dict[str, object]]:
    brokers: dict[str, Callable[[], AbstractContextManager[str]]] = {"embedded broker": embedded}
    if mosquitto_binary():
        defaults = {"Mosquitto, our configuration": mosquitto, "Mosquitto, its defaults": lambda: mosquitto("")}
        brokers = defaults | brokers
    else:
        print("Mosquitto is not installed: only the embedded broker is measured")
    rows = [_row("write and fsync 2 × 4 KB on this disk", _disk(), "")]
    for name, broker in brokers.items():
        with broker() as url, _manager(url):
            rows.append(_row(f"{name}: offer to grant", _offers(url, inline=False), "median ≤ 2"))
            rows.append(_row(f"{name}: inline offer to receipt", _offers(url, inline=True), "median ≤ 2 + disk"))
    return rows


def _row(what: str, times: list[float], target: str) -> dict[str, object]:
    median, p99 = (float(np.quantile(times, q)) * 1e3 for q in (0.5, 0.99))
    return {
        "what": f"{what}, ms", "measured": f"median {median:.2f}, p99 {p99:.2f}", "target": target,
        "median_ms": round(median, 3), "p99_ms": round(p99, 3),
    }  # fmt: skip


def _disk() -> list[float]:
    """What the disk alone takes of a receipt."""
    times = []
    with TemporaryDirectory() as folder, (Path(folder) / "file").open("wb", buffering=0) as file:
        for _ in range(100):
            began = time.perf_counter()
            for _ in range(2):
                file.write(bytes(4096))
                os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return times


@contextmanager
def _manager(url: str) -> Iterator[None]:
    with TemporaryDirectory() as folder, child("latency", "manager", url, folder) as process:
        if MANAGED not in (process.stdout.readline() if process.stdout else ""):
            raise RuntimeError("the manager did not start")
        yield


def _offers(url: str, *, inline: bool) -> list[float]:
    """Seconds from each offer to its reply."""
    topics, client = Topics(), RawClient(url, "offerer")
    client.subscribe(topics.round)
    announced = decode(client.wait_for(topics.round).payload, Round)
    client.subscribe(topics.model("global"))
    manifest = decode(client.wait_for(topics.model("global")).payload, Manifest)
    data = _update(manifest)
    client.subscribe(topics.reply("+"), qos=1)
    times = []
    for number in range(OFFERS + WARM_UP):
        node = f"{'inline' if inline else 'asking'}-{number}"
        offer = encode(
            Offer(
                round=announced.round, attempt=announced.attempt, base=announced.base, sha256=sha256(data),
                bytes=len(data), examples=100, inline=inline,
            )
        )  # fmt: skip
        began = time.perf_counter()
        client.publish(topics.offer(node), offer, qos=1)
        if inline:
            client.publish(topics.update(node, sha256(data), 0), data, qos=1)
        reply = decode(client.wait_for(topics.reply(node), timeout_s=20).payload, Reply)
        times.append(time.perf_counter() - began)
        if reply.kind != ("receipt" if inline else "grant"):
            raise RuntimeError(f"expected a grant or receipt. Received: {reply.kind}: {reply.reason}")
    client.close()
    return times[WARM_UP:]


def _update(manifest: Manifest) -> bytes:
    positions = update_positions(manifest.variables)
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0, 0.01, manifest.variables[p].shape).astype(np.float32) for p in positions]
    return encode_weights(arrays, positions)


def _serve(url: str, folder: str) -> None:
    """A manager whose round stays open, and that has room for all grants."""
    from dl_mqtt_clients import Manager, Settings
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    changes = {
        "node.state_dir": f"{folder}/state", "artifacts.dir": f"{folder}/artifacts", "rounds.deadline_s": 3600.0,
        "rounds.target_updates": 100_000, "rounds.min_updates": 2, "transfer.chunks_in_flight": 4096,
        "transfer.inline_bytes": 10**10, "rounds.statistics_deadline_s": 0.1,
    }  # fmt: skip
    manager = Manager(nsl_core(), settings=Settings().replace(**changes), broker=url)
    print(MANAGED, flush=True)
    manager.run()


if __name__ == "__main__":
    _serve(*sys.argv[2:])
