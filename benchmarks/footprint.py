"""What a service costs when nothing happens: memory, time to be ready, CPU. By the `fedlearn` command, on JAX.

The model is the dense autoencoder of the BETH example. Ready: it has said on its status topic that it is connected and,
trainer and predictor, holds a model. Memory is taken after some rounds and scores; CPU after that, when nothing comes.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.common import cpu_s, median, mosquitto, resident_mb
from benchmarks.raw import RawClient
from dl_mqtt_clients.wire.topics import Topics

NODE, IDLE_S, BUSY_S = "bench", 10.0, 12.0
FEDLEARN = str(Path(sys.executable).with_name("fedlearn"))
ROLES = {
    "manager": "manager/status",
    "train": f"node/{NODE}/trainer/status",
    "predict": f"node/{NODE}/predictor/status",
}
RSS_MB: Mapping[str, str] = {"train": "≤ 600", "predict": "≤ 600"}


def run() -> list[dict[str, object]]:
    with TemporaryDirectory() as folder, mosquitto() as url:
        environ = os.environ | {"FEDLEARN_DATA__ROWS": "20000", "FEDLEARN_TRAINING__MIN_NEW_READINGS": "500"}
        _fedlearn(["model", "build"], folder, environ)
        first = _start_all(url, folder, environ)
        again = _start_all(url, folder, environ, measure=True)
    rows = [_row("fedlearn --help, s", median([_help_s() for _ in range(5)]), "≤ 0.4")]
    for name in ROLES:
        rows += [
            _row(f"{name}: s until ready", again[name]["ready_s"], "≤ 6"),
            _row(
                f"{name}: s until ready, first start on a device (nothing compiled yet)", first[name]["ready_s"], "≤ 6"
            ),
            _row(f"{name}: resident, MB", again[name]["resident_mb"], RSS_MB.get(name, "")),
            _row(f"{name}: CPU when idle, % of a core", again[name]["idle_percent"], "< 1"),
        ]
    rows.append(_row("embedded broker: CPU when idle, % of a core", _idle_broker(), "< 1"))
    return rows


def _row(what: str, measured: float, target: str) -> dict[str, object]:
    return {"what": what, "measured": round(measured, 2), "target": target}


def _help_s() -> float:
    began = time.perf_counter()
    subprocess.run([FEDLEARN, "--help"], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _fedlearn(arguments: list[str], folder: str, environ: Mapping[str, str]) -> None:
    subprocess.run([FEDLEARN, *arguments], cwd=folder, env=environ, stdout=subprocess.DEVNULL, check=True)


@contextmanager
def _service(name: str, url: str, folder: str, environ: Mapping[str, str], *more: str) -> Iterator[int]:
    """`fedlearn <name>` with its output in a file: its process id."""
    who = [] if name == "manager" else ["--nodes" if name == "generate" else "--node", NODE]
    log = Path(folder) / f"{name}.log"
    with log.open("ab") as output:
        command = [FEDLEARN, name, *who, "--broker", url, *more]
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=output, stderr=output)
    try:
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"fedlearn {name} has ended: {log.read_text()[-2000:]}")
    finally:
        process.terminate()
        process.wait(30)


def _start_all(url: str, folder: str, environ: Mapping[str, str], *, measure: bool = False) -> dict[str, dict]:
    """Each service in turn until it is ready; then, to `measure`, readings for a while, then silence."""
    facts: dict[str, dict] = {}
    with ExitStack() as stack:
        for name in ROLES:
            if name == "predict" and not measure:
                _readings(url, folder, environ)  # else there is no production model yet
            began = time.perf_counter()
            more = [] if name == "manager" else ["--data-broker", url]
            own = environ | {"XDG_CACHE_HOME": f"{folder}/cache-{name}"}  # as on a device of its own
            pid = stack.enter_context(_service(name, url, folder, own, *more))
            _until_ready(url, name)
            facts[name] = {"pid": pid, "ready_s": time.perf_counter() - began}
        if measure:
            _readings(url, folder, environ)
            _measure(facts)
    return facts


def _readings(url: str, folder: str, environ: Mapping[str, str]) -> None:
    with _service("generate", url, folder, environ, "--rate", "500"):
        time.sleep(BUSY_S)


def _measure(facts: dict[str, dict]) -> None:
    time.sleep(3.0)
    for fact in facts.values():
        fact["resident_mb"] = resident_mb(fact["pid"])
        fact["before_s"] = cpu_s(fact["pid"])
    time.sleep(IDLE_S)
    for fact in facts.values():
        fact["idle_percent"] = (cpu_s(fact["pid"]) - fact["before_s"]) / IDLE_S * 100


def _until_ready(url: str, name: str) -> None:
    client, topic = RawClient(url, f"watch-{name}"), f"{Topics().root}/{ROLES[name]}"
    client.subscribe(topic)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        status = msgspec.json.decode(client.wait_for(topic).payload)
        if status["state"] not in ("starting", "stopped", "lost", "fetching") and status["version"] is not None:
            client.close()
            return
    raise TimeoutError(f"fedlearn {name} was not ready within 60 s")


def _idle_broker() -> float:
    from dl_mqtt_clients import EmbeddedBroker

    with EmbeddedBroker() as broker:
        time.sleep(1.0)
        pid = broker.pid or 0
        before = cpu_s(pid)
        time.sleep(IDLE_S)
        return (cpu_s(pid) - before) / IDLE_S * 100
