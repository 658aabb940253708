"""What each codec costs: bytes of an update, its error, and AUROC on KDDTest+ after 20 rounds.

Four nodes that see other services each, as in `examples/nsl_kdd`; a top-k node keeps what it left out for its next
update. The mean of three initial models, since a run alone scatters by more than the codecs differ. Writes
artifacts/bench/codecs.md, which the documentation shows.
"""

from pathlib import Path

import numpy as np

from benchmarks import one_process
from benchmarks.one_process import Course, Node, data

NODES, ROUNDS, SEEDS = ("web", "mail", "files", "other"), 20, (1, 2, 3)
CODECS = ("float32", "bfloat16", "float16", "int8", "int4", "topk:0.1", "topk:0.01")
FILE = Path("artifacts/bench/codecs.md")


def run() -> list[dict[str, object]]:
    nodes = _nodes()
    found = {c: [one_process.run(nodes, codec=c, rounds=ROUNDS, seed=seed) for seed in SEEDS] for c in CODECS}
    plain = found["float32"]
    FILE.write_text(_markdown(found), encoding="utf-8")
    return [
        {
            "what": f"{name}: AUROC after {ROUNDS} rounds", "measured": round(_auroc(courses), 4),
            "against": round(_auroc(plain), 4), "ratio": f"{_auroc(courses) - _auroc(plain):+.4f}",
            "target": f"{courses[0].bytes / plain[0].bytes:.3f} × the bytes",
        }
        for name, courses in found.items()
    ]  # fmt: skip


def _nodes() -> list[Node]:
    from dl_mqtt_clients.data.partition import partition

    normal = data().train.normal()
    shards = partition(normal, NODES, by="group")
    return [Node(name, normal.x[rows]) for name, rows in zip(NODES, shards, strict=True)]


def _auroc(courses: list[Course]) -> float:
    return float(np.mean([course.auroc for course in courses]))


def _markdown(found: dict[str, list[Course]]) -> str:
    head = "| codec | bytes | of float32 | largest error | rms error | AUROC: mean | lowest | highest |"
    lines = [head, "|---" * 8 + "|"]
    for name, courses in found.items():
        share = courses[0].bytes / found["float32"][0].bytes
        largest, rms, change = np.mean([e for c in courses for e in c.errors], axis=0)
        errors = f"{largest:.1e} | {rms / change:.2%}" if largest else "0 | 0"
        aurocs = [c.auroc for c in courses]
        cells = f"{_auroc(courses):.3f} | {min(aurocs):.3f} | {max(aurocs):.3f}"
        lines.append(f"| `{name}` | {courses[0].bytes:,} | {share:.3f} | {errors} | {cells} |")
    return "\n".join(lines) + "\n"
