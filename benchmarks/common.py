"""What benchmarks share: a Mosquitto of their own, child processes, the job of the peer comparison."""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

OURS = """\
set_tcp_nodelay true
max_inflight_messages 100
max_queued_messages 20000
max_inflight_bytes 0
max_queued_bytes 0
"""  # what configuration/mosquitto/mosquitto.conf says of speed and queues


def mosquitto_binary() -> str | None:
    return shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


@contextmanager
def mosquitto(conf: str = OURS) -> Iterator[str]:
    """A Mosquitto on a free port: its url; the embedded broker where it is not installed."""
    binary = mosquitto_binary()
    if binary is None:
        print("Mosquitto is not installed: measured on the embedded broker")
        with embedded() as url:
            yield url
        return
    with TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        file = Path(folder) / "mosquitto.conf"
        file.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n{conf}\n")
        process = subprocess.Popen([binary, "-c", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port)
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@contextmanager
def embedded() -> Iterator[str]:
    from dl_mqtt_clients import EmbeddedBroker

    with EmbeddedBroker() as broker:
        yield broker.url


def wait_for_port(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")


@contextmanager
def child(module: str, *arguments: object, cpus: set[int] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`python -m benchmarks.<module> …`, killed at the end."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if cpus:
        os.sched_setaffinity(process.pid, cpus)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def peaks(pid: int) -> Iterator[list[tuple[float, float]]]:
    """Memory every 5 ms, as (resident, resident without files)."""
    samples = [memory_mb(pid)]
    over = threading.Event()

    def sample() -> None:
        while not over.wait(0.005):
            samples.append(memory_mb(pid))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()
        samples.append(memory_mb(pid))


def memory_mb(pid: int) -> tuple[float, float]:
    """(resident, resident without files); nothing once the process has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    resident, anonymous = (int(fields.get(name, "0 kB").split()[0]) / 1024 for name in ("VmRSS", "RssAnon"))
    return resident, anonymous


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median(values: list[float]) -> float:
    return statistics.median(values)


def shared(*parts: str) -> Path | None:
    folder = Path(os.environ.get("FEDLEARN_SHARED", ROOT.parent / "shared")).joinpath(*parts)
    return folder if folder.exists() else None


def nsl_rows() -> np.ndarray:
    """[n, 38] the peer comparison's readings, scaled to 0…1; made ones of the same size where the data is absent."""
    file = shared("data", "nsl-kdd", "KDDTrain+_20Percent.txt")
    if file is None:
        rng = np.random.default_rng(0)
        return rng.random((13_449, 38), dtype=np.float32)
    lines = (line.split(",") for line in file.read_text().splitlines())
    rows = [[float(v) for i, v in enumerate(c[:41]) if i not in (1, 2, 3)] for c in lines if c[41] == "normal"]
    x = np.asarray(rows, np.float32)
    x = np.sign(x) * np.log1p(np.abs(x))
    low, high = x.min(0), x.max(0)
    return (x - low) / np.where(high > low, high - low, 1)


def nsl_core():
    """The peer comparison's autoencoder, compiled. Imports Keras."""
    import keras

    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(n, activation="relu") for n in (64, 16, 64)]
    core = keras.Sequential([keras.Input((38,)), *layers, keras.layers.Dense(38, activation="sigmoid")])
    core.compile(keras.optimizers.Adam(1e-3), "mse")
    return core
