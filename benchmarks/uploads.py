"""64 nodes send 20 MB each to one manager at the same time: how much memory does it take at most?

Two rounds a strategy: the mean (one running sum) and the median (updates on disk, memory-mapped). The nodes share four
processes and send made updates; manager and broker are real. Resident memory counts the pages of the updates' file that
are mapped just then; the system takes them back when it needs them, and so they are also left out once.

    python -m benchmarks uploads
"""

import os
import sys
import time
from contextlib import ExitStack
from tempfile import TemporaryDirectory

from benchmarks.common import child, memory_mb, mosquitto, peaks

NODES = int(os.environ.get("FEDLEARN_BENCH_NODES", "64"))
ROUNDS, PROCESSES = 2, 4
FEATURES, HIDDEN = 256, (1536, 1536, 1280)  # 5.05 million parameters: 20 MB
STRATEGIES = {"mean": "FedAvg() @ Mean()", "median": "FedAvg() @ Median()"}


def run() -> list[dict[str, object]]:
    return [row for name in STRATEGIES for row in _rows(name)]


def _rows(name: str) -> list[dict[str, object]]:
    with mosquitto() as url, TemporaryDirectory() as folder, ExitStack() as stack:
        manager = stack.enter_context(child("uploads", "manager", url, folder, STRATEGIES[name]))
        lines = (line.split() for line in manager.stdout or ())
        model_mb = next(float(line[1]) for line in lines if line[0] == "ready")
        time.sleep(2.0)  # it connects and publishes its model
        before = memory_mb(manager.pid)
        samples = stack.enter_context(peaks(manager.pid))
        for part in range(PROCESSES):
            stack.enter_context(child("light", url, part * NODES // PROCESSES, NODES // PROCESSES))
        rounds = [(float(line[2]), int(line[3])) for line in lines if line[0] == "round"]
    over = [max(column) - start for column, start in zip(zip(*samples, strict=True), before, strict=True)]
    return [
        {
            "what": f"{name}: rounds, updates in each, seconds",
            "measured": f"{len(rounds)}, {min(n for _, n in rounds)}, {max(s for s, _ in rounds):.1f}",
            "against": f"{ROUNDS}, {NODES}", "target": "all",
        },
        _row(f"{name}: manager's peak resident memory over before, MB, against the model's", over[0], model_mb),
        _row(f"{name}: … without the pages of files", over[1], model_mb),
    ]  # fmt: skip


def _row(what: str, over_mb: float, model_mb: float) -> dict[str, object]:
    return {
        "what": what, "measured": round(over_mb, 1), "against": round(model_mb, 1),
        "ratio": f"{over_mb / model_mb:.2f} ×", "target": "≤ 6 ×",
    }  # fmt: skip


def _manager(url: str, folder: str, strategy: str) -> None:
    from dl_mqtt_clients import Manager, Settings
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core

    settings = Settings().replace(**{
        "broker.url": url, "node.state_dir": f"{folder}/state", "artifacts.dir": f"{folder}/artifacts",
        "rounds.target_updates": NODES, "rounds.min_updates": NODES, "rounds.deadline_s": 600.0,
        "rounds.strategy": strategy, "rounds.statistics_deadline_s": 0.1, "rounds.keep_versions": 1,
        "threshold.value": 1.0, "log.level": "warning",
    })  # fmt: skip

    def on_round(report) -> None:
        print("round", report.round, report.seconds, len(report.participants), flush=True)

    core = build_core(n_features=FEATURES, hidden=HIDDEN)
    manager = Manager(core, settings=settings, on_round=on_round, rounds=ROUNDS)
    print("ready", sum(weights.nbytes for weights in manager.versions.weights) / 2**20, flush=True)
    manager.run()


if __name__ == "__main__":
    _manager(*sys.argv[2:])
