"""One float32 update of a model with 25 million parameters, from offer to receipt, manager and trainer as processes.

Against two pairs of bare clients that move the same bytes in 256 KiB messages at QoS 1, hash, write and fsync them, and
answer: one of bytes over a socket (`raw`, the least there can be), one of paho-mqtt. All through the same Mosquitto.
"""

import hashlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.common import child, median, memory_mb, mosquitto, peaks
from benchmarks.raw import RawClient, publish_packet
from dl_mqtt_clients.wire.messages import Manifest, Offer, Reply, decode
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.weights import nbytes, update_positions

FEATURES, HIDDEN = 768, (4096, 4096, 1024)  # 25 million parameters
CHUNK_BYTES, IN_FLIGHT, REPEATS = 1 << 18, 64, 5
NODE = "bench"


def run() -> list[dict[str, object]]:
    with mosquitto() as url:
        ours = _federated(url)
        bare = {kind: _bare_pair(url, kind, ours["bytes"]) for kind in ("raw", "paho")}
    with mosquitto() as url:
        small = _federated(url, codec="int8", repeats=2)
    seconds, weights = median(ours["seconds"]), ours["weights"]
    return [
        _row("25 M parameters, offer to receipt, s, against bare paho", seconds, median(bare["paho"]), "≤ 1.5 ×"),
        _row("the same, against bytes over a socket", seconds, median(bare["raw"]), "≤ 1.5 ×"),
        _row("bytes on the wire, against the weights' (float32)", ours["wire"], weights, "≤ 1.01 ×"),
        _row("bytes on the wire, against the weights' (int8)", small["wire"], weights, "≤ 0.26 ×"),
        _row("int8 update, offer to receipt, s, against float32", median(small["seconds"]), seconds, ""),
        _row("manager's peak memory during an upload over before, MB, against the model's", *ours["peak"], ""),
        _row("… without the pages of the update's own file", *ours["peak_own"], ""),
        _row("manager's peak memory in rounds (upload, merge, publish), likewise", *ours["peak_all"], "≤ 6 ×"),
    ]  # fmt: skip


def _row(what: str, measured: float, against: float, target: str) -> dict[str, object]:
    return {
        "what": what, "measured": round(measured, 3), "against": round(against, 3),
        "ratio": f"{measured / against:.3f} ×", "target": target,
    }  # fmt: skip


# ---- ours ----------------------------------------------------------------------------------------------------


def _federated(url: str, *, codec: str = "float32", repeats: int = REPEATS) -> dict:
    """Watches offers and replies; in the first round also counts the bytes of all chunks."""
    topics = Topics()
    with TemporaryDirectory() as folder, child("update", "manager", url, folder, codec) as manager:
        watcher = RawClient(url, "watcher")
        watcher.subscribe(topics.model("global"))
        manifest = decode(watcher.wait_for(topics.model("global"), 120).payload, Manifest)
        weights = nbytes([manifest.variables[p] for p in update_positions(manifest.variables)])
        watcher.subscribe(topics.offer(NODE), topics.reply(NODE))
        counter = RawClient(url, "counter")
        counter.subscribe(topics.update(NODE, "+", "+"))
        before = memory_mb(manager.pid)
        with child("update", "trainer", url, folder), peaks(manager.pid) as whole:
            wire = threading.Thread(target=lambda: facts.update(wire=_count(counter)))
            facts: dict = {"weights": weights, "seconds": []}
            wire.start()
            _one_update(watcher, topics, lambda: None)
            wire.join()
            for _ in range(repeats):
                with peaks(manager.pid) as upload:
                    seconds, facts["bytes"] = _one_update(watcher, topics, upload.clear)
                facts["seconds"].append(seconds)
        model_mb = weights / 2**20
        facts["peak"] = (max(m[0] for m in upload) - upload[0][0], model_mb)
        facts["peak_own"] = (max(m[1] for m in upload) - upload[0][1], model_mb)
        facts["peak_all"] = (max(m[0] for m in whole) - before[0], model_mb)
    watcher.close()
    return facts


def _one_update(watcher: RawClient, topics: Topics, on_offer: Callable[[], None]) -> tuple[float, int]:
    """Seconds from the first offer of the next update to its receipt, and its bytes."""
    offer = decode(watcher.wait_for(topics.offer(NODE), 120).payload, Offer)
    began = time.perf_counter()
    on_offer()
    while True:
        reply = decode(watcher.wait_for(topics.reply(NODE), 120).payload, Reply)
        if reply.kind == "refusal":
            raise RuntimeError(reply.reason)
        if reply.kind == "receipt" and reply.sha256 == offer.sha256:
            return time.perf_counter() - began, offer.bytes


def _count(client: RawClient) -> int:
    """Bytes of the packets that carry one update: until none comes for a while."""
    total, patience_s = 0, 120.0
    while came := client.receive(patience_s):
        patience_s = 0.5  # the next round waits longer
        total += sum(len(publish_packet(d.topic, b"", packet_id=1)) + len(d.payload) + 3 for d in came)
    client.close()
    return total


def _settings(url: str, folder: str):
    from dl_mqtt_clients import Settings

    return Settings().replace(**{
        "broker.url": url, "node.state_dir": f"{folder}/state", "artifacts.dir": f"{folder}/artifacts",
        "rounds.target_updates": 1, "rounds.deadline_s": 600.0, "rounds.statistics_deadline_s": 600.0,
        "rounds.keep_versions": 1, "readings.holdout": 0.0, "threshold.value": 1.0, "rounds.pause_s": 1.0,
    })  # fmt: skip


def _manager(url: str, folder: str, codec: str) -> None:
    from dl_mqtt_clients import Manager
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core

    Manager(
        build_core(n_features=FEATURES, hidden=HIDDEN),
        settings=_settings(url, folder).replace(**{"transfer.codec": codec}),
    ).run()


def _trainer(url: str, folder: str) -> None:
    from dl_mqtt_clients import Trainer

    readings = np.random.default_rng(0).random((64, FEATURES), dtype=np.float32)
    Trainer(NODE, settings=_settings(url, folder), readings=readings).run()


# ---- bare clients --------------------------------------------------------------------------------------------


def _bare_pair(url: str, kind: str, size: int) -> list[float]:
    """Seconds from the first message to the answer, for the same bytes."""
    seconds = []
    with TemporaryDirectory() as folder, child("update", f"{kind}-receiver", url, folder, size) as receiver:
        if not (receiver.stdout and receiver.stdout.readline()):
            raise RuntimeError("the bare receiver did not start")
        with child("update", f"{kind}-sender", url, size) as sender:
            seconds = [float(line) for line in sender.stdout or ()]
    return seconds[1:]


class _Stored:
    """What a bare receiver does with the bytes."""

    def __init__(self, folder: str, size: int) -> None:
        self._folder, self._size = folder, size
        self._begin()

    def _begin(self) -> None:
        self._file = (Path(self._folder) / "update").open("wb", buffering=0)
        self._hash, self._missing = hashlib.sha256(), self._size

    def add(self, payload: bytes) -> str:
        """The digest when all is here and durable."""
        self._file.write(payload)
        self._hash.update(payload)
        self._missing -= len(payload)
        if self._missing:
            return ""
        os.fsync(self._file.fileno())
        self._file.close()
        digest = self._hash.hexdigest()
        self._begin()
        return digest


def _chunks(size: int) -> list[memoryview]:
    data = memoryview(np.random.default_rng(0).bytes(size))
    return [data[i : i + CHUNK_BYTES] for i in range(0, size, CHUNK_BYTES)]


def _raw_receiver(url: str, folder: str, size: str) -> None:
    client, stored = RawClient(url, "receiver"), _Stored(folder, int(size))
    client.subscribe("bytes", qos=1)
    print("ready", flush=True)
    while True:
        for delivery in client.receive(600):
            if digest := stored.add(delivery.payload):
                client.publish("answer", digest.encode(), qos=1)


def _raw_sender(url: str, size: str) -> None:
    client, chunks = RawClient(url, "sender"), _chunks(int(size))
    client.subscribe("answer", qos=1)
    for _ in range(REPEATS + 1):
        began, answered, sent, before = time.perf_counter(), False, 0, client.acknowledged
        while not answered:
            if sent < len(chunks) and sent - (client.acknowledged - before) < IN_FLIGHT:
                client.publish("bytes", chunks[sent], qos=1)
                sent += 1
                continue
            answered = any(d.topic == "answer" for d in client.receive(60))
        print(time.perf_counter() - began, flush=True)


def _paho(url: str):
    import paho.mqtt.client as paho

    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.max_inflight_messages_set(IN_FLIGHT)
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.connect("127.0.0.1", int(url.rpartition(":")[2]))
    return client


def _paho_receiver(url: str, folder: str, size: str) -> None:
    client, stored = _paho(url), _Stored(folder, int(size))

    def on_message(_client: object, _data: object, message) -> None:
        if digest := stored.add(message.payload):
            client.publish("answer", digest, qos=1)

    client.on_message = on_message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe("bytes", qos=1)
    client.loop_forever()


def _paho_sender(url: str, size: str) -> None:
    client, chunks = _paho(url), [bytes(c) for c in _chunks(int(size))]
    answered = threading.Event()
    client.on_message = lambda *_: answered.set()
    client.subscribe("answer", qos=1)
    client.loop_start()
    for _ in range(REPEATS + 1):
        answered.clear()
        began = time.perf_counter()
        for chunk in chunks:
            client.publish("bytes", chunk, qos=1)
        if not answered.wait(60):
            raise TimeoutError("no answer")
        print(time.perf_counter() - began, flush=True)
    client.disconnect()


if __name__ == "__main__":
    roles = {
        "manager": _manager, "trainer": _trainer, "raw-receiver": _raw_receiver, "raw-sender": _raw_sender,
        "paho-receiver": _paho_receiver, "paho-sender": _paho_sender,
    }  # fmt: skip
    roles[sys.argv[1]](*sys.argv[2:])
