"""One float32 update of a 25 M-parameter model, trainer to manager, offer to receipt: against a bare client pair.

The bare pair moves the same bytes in 256 KiB messages at QoS 1, hashes them, writes them and fsyncs the file.
"""

import hashlib
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import child, mosquitto, resident_mb
from dl_mqtt_clients.transport.base import Address, open_transport

WIDTH = 3536  # two layers of WIDTH × WIDTH: 25.0 M parameters
CHUNK = 256 * 1024
TOTAL = 4 * (2 * WIDTH * WIDTH + 2 * WIDTH)


def run() -> list[dict[str, object]]:
    ours, sent, peak_models = _ours()
    bare = _bare()
    return [
        {
            "what": "offer to receipt, s, against a bare client pair", "measured": round(ours, 3),
            "against": round(bare, 3), "ratio": f"{ours / bare:.2f} ×", "target": "≤ 1.5 ×",
        },
        {
            "what": "bytes of the update, against the weights'", "measured": sent, "against": TOTAL,
            "ratio": f"{sent / TOTAL:.4f} ×", "target": "≤ 1.01 ×",
        },
        {"what": "manager's memory above that at rest, in models", "measured": round(peak_models, 2)},
    ]  # fmt: skip


def _ours() -> tuple[float, int, float]:
    """Seconds, bytes, and the manager's growth in models."""
    from dl_mqtt_clients.wire.messages import Offer, Reply, decode
    from dl_mqtt_clients.wire.topics import Topics

    topics, seen = Topics(), {}
    with mosquitto() as url, TemporaryDirectory() as folder, ExitStack() as stack:
        watch = open_transport(Address(url=url), client_id="watch")
        stack.callback(watch.stop)

        def hear(delivery) -> None:
            now = time.perf_counter()
            if delivery.topic == topics.offer("big"):
                seen.setdefault("offer", (now, decode(delivery.payload, Offer).bytes))
            elif decode(delivery.payload, Reply).kind == "receipt":
                seen.setdefault("receipt", (now, 0))

        watch.subscribe(topics.offer("big"))
        watch.subscribe(topics.reply("big"))
        watch.start(on_message=hear, on_connected=lambda: None, on_disconnected=print)
        manager = stack.enter_context(child("update", "manager", url, folder))
        stack.enter_context(child("update", "trainer", url, folder))
        rest = peak = 0.0
        deadline = time.monotonic() + 120
        while "receipt" not in seen and time.monotonic() < deadline:
            now = resident_mb(manager.pid)
            rest = now if "offer" not in seen else rest
            peak = max(peak, now)
            time.sleep(0.01)
    began, size = seen["offer"]
    return seen["receipt"][0] - began, size, (peak - rest) * 2**20 / TOTAL


def _bare() -> float:
    """Seconds from the first byte published to the last one on disk, the receiver a process of its own."""
    with mosquitto() as url, child("update", "receiver", url) as receiver:
        for line in receiver.stdout or ():
            if line.strip() == "ready":
                break
        client = open_transport(Address(url=url), client_id="bare-sender")
        connected: list[None] = []
        client.start(on_message=print, on_connected=lambda: connected.append(None), on_disconnected=print)
        while not connected:
            time.sleep(0.01)
        data = np.random.default_rng(0).bytes(TOTAL)
        began = time.perf_counter()
        for start in range(0, TOTAL, CHUNK):
            client.publish("bare", memoryview(data)[start : start + CHUNK], qos=1)
        for line in receiver.stdout or ():
            if line.strip() == "done":
                break
        took = time.perf_counter() - began
        client.stop()
    return took


def _receiver(url: str) -> None:
    import queue

    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    client = open_transport(Address(url=url), client_id="bare-receiver")
    client.subscribe("bare")
    client.start(
        on_message=lambda d: inbox.put(d.payload),
        on_connected=lambda: print("ready", flush=True),
        on_disconnected=print,
    )
    digest, received = hashlib.sha256(), 0
    with TemporaryDirectory() as folder, (Path(folder) / "update").open("wb", buffering=0) as file:
        while received < TOTAL:
            piece = inbox.get(timeout=60)
            digest.update(piece)
            file.write(piece)
            received += len(piece)
        os.fsync(file.fileno())
    print("done", flush=True)
    client.stop()


def _settings(url: str, folder: str):
    from dl_mqtt_clients import Settings

    changes = {
        "broker.url": url, "rounds.target_updates": 1, "node.state_dir": f"{folder}/state", "readings.holdout": 0.0,
        "artifacts.dir": f"{folder}/artifacts", "rounds.statistics_deadline_s": 60.0, "rounds.deadline_s": 300.0,
    }  # fmt: skip
    return Settings().replace(**changes)


def _manager(url: str, folder: str) -> None:
    from dl_mqtt_clients import Manager
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    import keras

    layers = [keras.layers.Dense(WIDTH), keras.layers.Dense(WIDTH)]
    core = keras.Sequential([keras.Input((WIDTH,)), *layers])
    core.compile(keras.optimizers.SGD(1e-4), "mse")
    Manager(core, settings=_settings(url, folder), rounds=1).run()


def _trainer(url: str, folder: str) -> None:
    from dl_mqtt_clients import Trainer

    rows = np.random.default_rng(0).normal(size=(32, WIDTH)).astype(np.float32)
    Trainer("big", settings=_settings(url, folder), readings=rows).run()


if __name__ == "__main__":
    {"manager": _manager, "trainer": _trainer, "receiver": _receiver}[sys.argv[1]](*sys.argv[2:])
