"""Federated rounds, 4 trainers as processes, NSL-KDD autoencoder: against a plain loop of the same fits, and Flower.

Every fit: one epoch over a quarter of the normal rows, batch 32, a fresh Adam. The first round (compilation) apart.
"""

import itertools
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from tempfile import TemporaryDirectory

from benchmarks.common import child, median, mosquitto, nsl_core, nsl_rows, shared

NODES, ROUNDS = 4, 20
FLOWER = (
    "FEDLEARN_BENCH_FLOWER"  # set to 1 to run the peer too (its environment must be made: ../shared/peers/run venv)
)


def run() -> list[dict[str, object]]:
    ours = _federated()
    plain = _plain()
    rows = [
        _row("first round, s (compilation)", ours[0], plain[0], ""),
        _row("a round, s, median of 19, against the plain loop", median(ours[1:]), median(plain[1:]), "≤ 1.1 ×"),
    ]
    flower = _flower()
    if flower:
        rows.append(_row("a round, s, against Flower's deployment engine", median(ours[1:]), flower, "≤ 0.01 ×"))
    return rows


def _row(what: str, measured: float, against: float, target: str) -> dict[str, object]:
    return {
        "what": what, "measured": round(measured, 4), "against": round(against, 4),
        "ratio": f"{measured / against:.4f} ×", "target": target,
    }  # fmt: skip


def _federated() -> list[float]:
    """Seconds a round, as the time between two merges in the manager's own process."""
    with mosquitto() as url, TemporaryDirectory() as folder, ExitStack() as stack:
        for node in range(NODES):
            stack.enter_context(child("rounds", "trainer", url, folder, node))
        manager = stack.enter_context(child("rounds", "manager", url, folder))
        times = [float(line) for line in manager.stdout or () if line.strip()]
    return [b - a for a, b in itertools.pairwise(times)]


def _plain() -> list[float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.rounds", "plain"], capture_output=True, text=True, check=True
    )
    return [float(line) for line in done.stdout.split()]


def _flower() -> float | None:
    peers = shared("peers")
    if peers is None or not os.environ.get(FLOWER):
        return None
    done = subprocess.run(
        ["bash", peers / "run", "deployment", str(NODES), "3"], capture_output=True, text=True, check=False
    )
    walls = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("ROUNDS_WALL_S")]
    return walls[0] / 3 if walls else None


def _settings(url: str, folder: str):
    from dl_mqtt_clients import Settings

    changes = {
        "broker.url": url, "rounds.target_updates": NODES, "rounds.min_updates": NODES, "readings.holdout": 0.0,
        "node.state_dir": f"{folder}/state", "artifacts.dir": f"{folder}/artifacts", "training.window": 100_000,
        "rounds.statistics_deadline_s": 0.05,
    }  # fmt: skip
    return Settings().replace(**changes)


def _trainer(url: str, folder: str, node: str) -> None:
    from dl_mqtt_clients import Trainer

    Trainer(f"node{node}", settings=_settings(url, folder), readings=nsl_rows()[int(node) :: NODES]).run()


def _manager(url: str, folder: str) -> None:
    from dl_mqtt_clients import Manager
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    print(time.time(), flush=True)
    Manager(
        nsl_core(), settings=_settings(url, folder), rounds=ROUNDS,
        on_round=lambda _report: print(time.time(), flush=True),
    ).run()  # fmt: skip


def _plain_loop() -> None:
    """The floor: the same fits in one process and one loop, a fresh optimizer for each."""
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    import numpy as np

    model, shards = nsl_core(), [nsl_rows()[i::NODES] for i in range(NODES)]
    shards = [s[: len(s) // 32 * 32] for s in shards]
    model.optimizer.build(model.trainable_variables)
    fresh = [np.array(v) for v in model.optimizer.variables]
    weights = model.get_weights()
    for _ in range(ROUNDS):
        began, total, examples = time.time(), None, 0
        for x in shards:
            model.set_weights(weights)
            for variable, value in zip(model.optimizer.variables, fresh, strict=True):
                variable.assign(value)
            model.fit(x, x, batch_size=32, epochs=1, verbose=0)
            part = [w * len(x) for w in model.get_weights()]
            total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
            examples += len(x)
        weights = [t / examples for t in total]
        print(time.time() - began, flush=True)


if __name__ == "__main__":
    {"trainer": _trainer, "manager": _manager, "plain": _plain_loop}[sys.argv[1]](*sys.argv[2:])
