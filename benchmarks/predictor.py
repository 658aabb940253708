"""The predictor under load: messages a second end to end, CPU a message, latency, and what a new model costs.

Load and listener are one bare client with readings encoded beforehand. It keeps at most `WINDOW` readings without
score on the way, so that nothing is lost and the rate is what the slowest of broker and subscriber sustains.
The same load goes to subscribers that only count: bare paho, and this project's transport.
"""

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from benchmarks.common import child, cpu_s, mosquitto, mosquitto_binary, nsl_rows
from benchmarks.raw import RawClient, publish_packet

NODE, READINGS, SCORES = "bench", "reading/bench", "score/bench"
WINDOW = 15_000 if mosquitto_binary() else 5_000  # messages on the way: what brokers (20,000; 10,000) queue
MESSAGES, ROWS_A_MESSAGE = 150_000, 100
COUNT_EVERY = 500


class _Scores(msgspec.Struct):
    scores: list[float]
    ids: list[object]
    number: int


_decode = msgspec.json.Decoder(_Scores).decode


def run() -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    with mosquitto() as url:
        for features in (7, 38):
            rows += _one_a_message(url, features)
        rows += _many_a_message(url, 7)
        rows += _latency(url)
        rows += _swaps(url)
    return rows


def _row(what: str, measured: float, target: str, against: float | None = None) -> dict[str, object]:
    row: dict[str, object] = {"what": what, "measured": round(measured, 2), "target": target}
    if against:
        row |= {"against": round(against, 2), "ratio": f"{measured / against:.2f} ×"}
    return row


# ---- rows ----------------------------------------------------------------------------------------------------


def _one_a_message(url: str, features: int) -> list[dict[str, object]]:
    messages = _messages(features, rows=1)
    results: dict[str, tuple[float, float, int]] = {}
    for name in ("paho", "ours"):
        with child("predictor", name, url) as counter:
            results[name] = _flood(url, counter.pid, messages, counted="count", each=1)
    with _predictor(url, features) as pid:
        results["predictor"] = _flood(url, pid, messages, counted=SCORES, each=1)
    (rate, cost, lost), (paho, paho_cost, _), (ours, ours_cost, _) = (results[n] for n in ("predictor", "paho", "ours"))
    name = f"{features} features, one reading a message"
    return [
        _row(f"{name}: msgs/s end to end, against paho only counting", rate, "≥ 0.6 ×", paho),
        _row(f"{name}: the same, against our transport only counting", rate, "", ours),
        _row(f"{name}: lost", lost, "0"),
        _row(
            f"{name}: msgs/s on one core (1 / CPU time), against paho", 1e6 / cost, "≥ 15,000; ≥ 0.6 ×", 1e6 / paho_cost
        ),
        _row(f"{name}: the same, against our transport", 1e6 / cost, "", 1e6 / ours_cost),
        _row(f"{name}: CPU µs a message, against paho", cost, "≤ 66", paho_cost),
    ]


def _many_a_message(url: str, features: int) -> list[dict[str, object]]:
    messages = _messages(features, rows=ROWS_A_MESSAGE)
    with _predictor(url, features) as pid:
        rate, cost, lost = _flood(url, pid, messages, counted=SCORES, each=ROWS_A_MESSAGE)
    name = f"{features} features, {ROWS_A_MESSAGE} readings a message"
    return [
        _row(f"{name}: readings/s end to end", rate, "≥ 200,000"),
        _row(f"{name}: readings/s on one core (1 / CPU time)", 1e6 / cost, "≥ 200,000"),
        _row(f"{name}: lost", lost, "0"),
    ]


def _latency(url: str) -> list[dict[str, object]]:
    with _predictor(url, 7) as pid:
        _paced(url, rate=1000, seconds=2)
        before = cpu_s(pid)
        times, _ = _paced(url, rate=1000, seconds=10)
        cpu = (cpu_s(pid) - before) / 10
    return [
        _row("reading to score at 1,000 msgs/s, median, ms", float(np.median(times)) * 1e3, ""),
        _row("reading to score at 1,000 msgs/s, p99, ms", float(np.quantile(times, 0.99)) * 1e3, "≤ 20"),
        _row("reading to score at 1,000 msgs/s, longest, ms", max(times) * 1e3, ""),
        _row("CPU at 1,000 msgs/s, % of a core", cpu * 100, ""),
    ]


def _swaps(url: str) -> list[dict[str, object]]:
    rows = []
    with _predictor(url, 7) as _pid, TemporaryDirectory() as folder:
        _make_models(folder, 7)
        _paced(url, rate=2000, seconds=2)
        quiet = _paced(url, rate=2000, seconds=5)
        for what, versions in (("new weights", range(1, 5)), ("another architecture", range(5, 6))):
            at = {
                1.0 + k: lambda client, v=v: _publish_version(client, Path(folder), v) for k, v in enumerate(versions)
            }
            times, numbers = _paced(url, rate=2000, seconds=len(at) + 4, at=at)
            if numbers[-1] != versions[-1]:
                raise RuntimeError(f"the predictor did not take version {versions[-1]}")
            rows.append(
                _row(f"{what} at 2,000 msgs/s: longest wait for a score, ms", max(times) * 1e3, "", max(quiet[0]) * 1e3)
            )
    return rows


# ---- load ----------------------------------------------------------------------------------------------------


def _messages(features: int, *, rows: int) -> list[bytes]:
    """PUBLISH packets, different ones: about 20,000 readings."""
    table = np.round(nsl_rows()[:, :features] * 100, 3)
    payloads = []
    for start in range(0, min(len(table), 20_000) - rows, rows):
        data = table[start].tolist() if rows == 1 else table[start : start + rows].tolist()
        payloads.append(json.dumps({"data": data, "id": start}).encode())
    return [publish_packet(READINGS, p) for p in payloads]


def _flood(url: str, pid: int, messages: Sequence[bytes], *, counted: str, each: int) -> tuple[float, float, int]:
    """Readings a second, the subscriber's CPU µs a reading, and how many were lost."""
    client = RawClient(url, "load")
    client.subscribe(counted)
    count = (lambda p: len(_decode(p).scores)) if counted == SCORES else int
    _await_first(client, messages, count, each)
    _pump(client, messages, count, each, total=20_000)  # compiled, caches warm
    before, began = cpu_s(pid), time.monotonic()
    total = MESSAGES if each == 1 else MESSAGES * 10
    done = _pump(client, messages, count, each, total=total)
    seconds, cpu = time.monotonic() - began, cpu_s(pid) - before
    client.close()
    return done / seconds, cpu / done * 1e6, total - done


def _await_first(client: RawClient, messages: Sequence[bytes], count: Callable[[bytes], int], each: int) -> None:
    """Until the subscriber is there: what is published before is gone."""
    need = COUNT_EVERY if each == 1 else 1
    until = time.monotonic() + 60
    while time.monotonic() < until:
        client.sock.sendall(b"".join(messages[:need]))
        if sum(count(d.payload) for d in client.receive(0.5)):
            while client.receive(0.5):
                pass
            return
    raise TimeoutError("nobody answers")


def _pump(client: RawClient, messages: Sequence[bytes], count: Callable[[bytes], int], each: int, *, total: int) -> int:
    """Send `total` readings, at most a window ahead of what was counted; how many were counted."""
    block, window = max(COUNT_EVERY // each, 1), WINDOW if each == 1 else 1000 * each
    blocks = [b"".join(messages[i : i + block]) for i in range(0, len(messages) - block + 1, block)]
    sent = done = number = 0
    last = time.monotonic()
    while done < total:
        if sent < total and sent - done < window:
            client.sock.sendall(blocks[number % len(blocks)])
            number, sent = number + 1, sent + block * each
            patience = 0.0
        else:
            patience = 0.05
        came = client.receive(patience)
        if came:
            done, last = done + sum(count(d.payload) for d in came), time.monotonic()
        elif sent - done >= window and time.monotonic() - last > 2:
            return done  # lost: nothing moves any more
        elif sent >= total and time.monotonic() - last > 2:
            return done
    return done


def _paced(
    url: str, *, rate: int, seconds: float, at: dict[float, Callable[[RawClient], None]] | None = None
) -> tuple[list[float], list[int]]:
    """One reading every 1/rate s: seconds from each reading to its score, and the versions that scored."""
    client, other = RawClient(url, "load"), RawClient(url, "publisher")
    client.subscribe(SCORES)
    values = np.round(nsl_rows()[:5000, :7] * 100, 3).tolist()
    total, sent, due = int(rate * seconds), [], dict(at or {})
    times: dict[int, float] = {}
    numbers: list[int] = []
    began = time.monotonic()
    while len(times) < total and time.monotonic() < began + seconds + 20:
        now = time.monotonic() - began
        for moment in [m for m in due if m <= now]:
            due.pop(moment)(other)
        while len(sent) < min(total, int(now * rate) + 1):
            payload = json.dumps({"data": values[len(sent) % len(values)], "id": len(sent)}).encode()
            sent.append(time.monotonic())
            client.publish(READINGS, payload)
        pause = began + len(sent) / rate - time.monotonic() if len(sent) < total else 0.1
        for delivery in client.receive(pause):
            arrived, scores = time.monotonic(), _decode(delivery.payload)
            numbers.append(scores.number)
            times.update({i: arrived - sent[i] for i in scores.ids if isinstance(i, int)})
    client.close()
    other.close()
    if len(times) < total:
        print(f"{total - len(times)} of {total} readings were never scored")
    return list(times.values()), numbers


# ---- the predictor and its models ----------------------------------------------------------------------------


@contextmanager
def _predictor(url: str, features: int):
    """A predictor process that starts from a model on its disk: its pid."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        _make_models(folder, features)
        process = stack.enter_context(child("predictor", "predictor", url, folder))
        client = RawClient(url, "watcher")
        client.subscribe(SCORES)
        until = time.monotonic() + 60
        reading = json.dumps({"data": [0.0] * features}).encode()
        while time.monotonic() < until:
            client.publish(READINGS, reading)
            if client.receive(0.5):
                break
        else:
            raise TimeoutError("the predictor does not score")
        client.close()
        yield process.pid


def _make_models(folder: str, features: int) -> None:
    with child("predictor", "models", folder, features) as process:
        if process.wait(120):
            raise RuntimeError("the models could not be made")


def _models(folder: str, features: str) -> None:
    """Version 0 into the predictor's state; 1 … 4 with other weights and 5 with another architecture beside it."""
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core
    from dl_mqtt_clients.learning.model import FederatedModel

    for number in range(6):
        hidden = (64, 16, 64) if number < 5 else (64, 32, 16, 32, 64)
        model = FederatedModel.from_core(build_core(n_features=int(features), hidden=hidden))
        model.set_weights([w * np.float32(1 + number / 100) for w in model.get_weights()])
        _save(model, Path(folder) / (f"{NODE}/predictor" if number == 0 else f"{number}"), number)


def _save(model, folder: Path, number: int) -> None:
    from dl_mqtt_clients.wire.messages import Manifest, encode
    from dl_mqtt_clients.wire.transfer import describe, sha256
    from dl_mqtt_clients.wire.weights import encode as encode_weights

    folder.mkdir(parents=True)
    weights = encode_weights(model.get_weights())
    contents = {"architecture.json": model.architecture, "weights.safetensors": weights}
    blobs = {name.partition(".")[0]: describe(data, chunk_bytes=1 << 18) for name, data in contents.items()}
    version = sha256(weights)
    manifest = Manifest(
        stage="production", generation=1, serial=number + 1, version=version, number=number, round=number,
        lineage=version, blobs=blobs, variables=model.variables, threshold=1e9,
    )  # fmt: skip
    for name, data in (contents | {"production.json": encode(manifest)}).items():
        (folder / name).write_bytes(data)


def _publish_version(client: RawClient, folder: Path, number: int) -> None:
    """As the manager does it: retained chunks, then the manifest."""
    from dl_mqtt_clients.wire.messages import Manifest, decode
    from dl_mqtt_clients.wire.topics import Topics

    topics, place = Topics(), folder / str(number)
    manifest = decode((place / "production.json").read_bytes(), Manifest)
    for name, file in (("architecture", "architecture.json"), ("weights", "weights.safetensors")):
        data = (place / file).read_bytes()
        client.publish(topics.blob(manifest.blobs[name].sha256, 0), data, retain=True)
    client.publish(topics.model("production"), (place / "production.json").read_bytes(), retain=True)


def _serve(url: str, folder: str) -> None:
    from dl_mqtt_clients import Predictor, Settings

    Predictor(NODE, settings=Settings().replace(**{"node.state_dir": folder}), broker=url).run()


# ---- subscribers that only count -----------------------------------------------------------------------------


def _count_with_paho(url: str) -> None:
    import paho.mqtt.client as paho

    count = 0
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)

    def on_message(*_: object) -> None:
        nonlocal count
        count += 1
        if count % COUNT_EVERY == 0:
            client.publish("count", str(COUNT_EVERY))

    client.on_message = on_message
    client.on_socket_open = lambda _client, _data, sock: sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.on_connect = lambda *_: client.subscribe(READINGS)
    client.connect("127.0.0.1", int(url.rpartition(":")[2]))
    client.loop_forever()


def _count_with_ours(url: str) -> None:
    import threading

    from dl_mqtt_clients.transport.base import Address, open_transport

    count = 0
    transport = open_transport(Address(url=url), client_id="counter")

    def on_message(_: object) -> None:
        nonlocal count
        count += 1
        if count % COUNT_EVERY == 0:
            transport.publish("count", str(COUNT_EVERY).encode(), qos=0)

    transport.subscribe(READINGS, qos=0)
    transport.start(on_message=on_message, on_connected=lambda: None, on_disconnected=print)
    threading.Event().wait()


if __name__ == "__main__":
    roles = {"predictor": _serve, "models": _models, "paho": _count_with_paho, "ours": _count_with_ours}
    roles[sys.argv[1]](*sys.argv[2:])
