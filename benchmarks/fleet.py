"""2,000 light nodes on one manager and one broker, small model: every round closes, memory stays flat.

Nodes share four processes and send made updates; manager and broker are real. FEDLEARN_BENCH_NODES and _ROUNDS change
the size.
"""

import os
import sys
from contextlib import ExitStack
from tempfile import TemporaryDirectory

from benchmarks.common import child, median, mosquitto, resident_mb

NODES = int(os.environ.get("FEDLEARN_BENCH_NODES", "2000"))
ROUNDS = int(os.environ.get("FEDLEARN_BENCH_ROUNDS", "50"))
PROCESSES = 4


def run() -> list[dict[str, object]]:
    with mosquitto() as url, TemporaryDirectory() as folder, ExitStack() as stack:
        manager = stack.enter_context(child("fleet", "manager", url, folder))
        for part in range(PROCESSES):
            stack.enter_context(child("light", url, part * NODES // PROCESSES, NODES // PROCESSES))
        lines = []
        for line in manager.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.split())
    seconds = [float(line[2]) for line in lines]
    updates = [int(line[3]) for line in lines]
    memory = [float(line[4]) for line in lines]
    early, late = median(memory[3:8]), median(memory[-5:])
    return [
        {"what": "rounds closed", "measured": len(lines), "against": ROUNDS, "ratio": "", "target": "all"},
        {"what": "updates a round, least", "measured": min(updates), "against": NODES, "ratio": "", "target": "all"},
        {"what": "seconds a round, median", "measured": round(median(seconds), 2)},
        {"what": "seconds, longest round", "measured": round(max(seconds), 2)},
        {"what": "updates a second", "measured": round(NODES / median(seconds))},
        {
            "what": "manager's memory, MB, last rounds against rounds 4-8", "measured": round(late, 1),
            "against": round(early, 1), "ratio": f"{late / early:.3f} ×", "target": "flat",
        },
    ]  # fmt: skip


def _manager(url: str, folder: str) -> None:
    from dl_mqtt_clients import Manager, Settings
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core

    core = build_core(
        n_features=7, task="anomaly", hidden=(16, 3, 16), activation="relu", output_activation="linear", loss="",
        learning_rate=1e-3, seed=1,
    )  # fmt: skip
    settings = Settings().replace(
        **{
            "broker.url": url, "rounds.target_updates": NODES, "rounds.min_updates": NODES, "rounds.deadline_s": 300.0,
            "node.state_dir": f"{folder}/state", "artifacts.dir": f"{folder}/artifacts",
            "rounds.statistics_deadline_s": 0.1, "log.level": "warning",
        }
    )  # fmt: skip

    def on_round(report) -> None:
        updates = len(report.participants)
        print("round", report.round, report.seconds, updates, round(resident_mb(os.getpid()), 1), flush=True)

    Manager(core, settings=settings, rounds=ROUNDS, on_round=on_round).run()


if __name__ == "__main__":
    _manager(*sys.argv[2:])
