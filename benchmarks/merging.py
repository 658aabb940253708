"""Merging one update of 23 million float32 parameters, against one blocked numpy multiply-add pass over them.

The pass: total += weight · update, the product in float32 and the sum in float64, in blocks that stay in the cache.
Ours multiplies in float64, rounds to integers, so that the sum is the same bits in any order, and looks first whether
the sum can take it. In seconds of this thread's CPU; the two take turns, and the ratio is the median over turns.
"""

import os
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks.common import median
from dl_mqtt_clients.aggregation.fixed_point import BLOCK
from dl_mqtt_clients.aggregation.strategies import Aggregator, Update, read_strategy
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import check_finite

SHAPES = ((4096, 4096), (2048, 3072), (2048,))
TURNS = int(os.environ.get("FEDLEARN_BENCH_REPEATS", "15"))
MAX_DELTA = 100.0


def run() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    update = [rng.normal(0, 1e-3, shape).astype(np.float32) for shape in SHAPES]
    rows = [_row(text, partial(_merge, text), update) for text in ("FedAvg() @ Mean()", "Mean() @ ClipNorm(1.0)")]
    return [*rows, _row("the check for NaN and size on arrival", _arrival, update, target="")]


def _row(what: str, make: Callable, update: list[np.ndarray], target: str = "≤ 2 ×") -> dict[str, object]:
    ours, plain = make(update), _plain(update)
    pairs = [(_seconds(ours), _seconds(plain)) for _ in range(TURNS + 1)][1:]
    return {
        "what": f"{what}: one update, ms of CPU, against a multiply-add pass",
        "measured": round(1000 * median([a for a, _ in pairs]), 1),
        "against": round(1000 * median([b for _, b in pairs]), 1),
        "ratio": f"{median([a / b for a, b in pairs]):.2f} ×",
        "target": target,
    }


def _seconds(action: Callable[[], object]) -> float:
    began = time.thread_time()
    action()
    return time.thread_time() - began


def _merge(strategy: str, update: list[np.ndarray]) -> Callable[[], None]:
    variables = [Variable(path=f"v{i}", shape=a.shape, dtype="float32", role="trainable") for i, a in enumerate(update)]
    aggregator = Aggregator(
        read_strategy(strategy), variables, base=[np.zeros_like(a) for a in update],
        max_delta=MAX_DELTA, max_examples=10_000, max_updates=1000,
    )  # fmt: skip
    nodes = iter(range(1_000_000))

    def merge() -> None:
        aggregator.add(Update(node=f"n{next(nodes)}", arrays=update, examples=1000))

    return merge


def _plain(update: list[np.ndarray]) -> Callable[[], None]:
    total = [np.zeros(array.size) for array in update]
    scaled = np.empty(BLOCK)

    def multiply_add() -> None:
        for into, array in zip(total, update, strict=True):
            flat = array.reshape(-1)
            for start in range(0, flat.size, BLOCK):
                piece = flat[start : start + BLOCK]
                np.multiply(piece, 1000.0, out=scaled[: piece.size])
                into[start : start + BLOCK] += scaled[: piece.size]

    return multiply_add


def _arrival(update: list[np.ndarray]) -> Callable[[], None]:
    return lambda: check_finite(update, range(len(update)), limit=MAX_DELTA)


if __name__ == "__main__":
    for row in run():
        print(row)
