"""What vocabularies are worth: AUROC on KDDTest+ after 20 rounds, with protocol, service and flag as words.

Against the columns that NSL-KDD's loader makes of the whole training file, which no federation has in one place, and
against numbers alone. Four nodes, alike, or with services of their own: then with `min_nodes` of two no service is
listed. The mean of three initial models. Writes artifacts/bench/words.md, which the documentation shows.
"""

from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchmarks import one_process
from benchmarks.common import shared
from benchmarks.one_process import Course, Node, data

if TYPE_CHECKING:
    from dl_mqtt_clients.data.dataset import Splits
    from dl_mqtt_clients.learning.model import FederatedModel

Partition = Literal["even", "group"]

NODES, ROUNDS, SEEDS, SIZE = ("web", "mail", "files", "other"), 20, (1, 2, 3), 20
SHARES: dict[Partition, str] = {"even": "nodes alike", "group": "services of their own"}
FILE = Path("artifacts/bench/words.md")


@dataclass(frozen=True)
class Case:
    name: str
    min_nodes: int = 0  # of a listed value; 0: no vocabularies

    def splits(self) -> "Splits":
        if self.min_nodes:
            return _words()
        return data() if self.name.startswith("columns") else _numbers()


CASES = (
    Case("columns of the whole training file"),
    Case("words, of one node", min_nodes=1),
    Case("words, of two nodes", min_nodes=2),
    Case("numbers alone"),
)


def run() -> list[dict[str, object]]:
    found = {(case, by): [_run(case, by, seed) for seed in SEEDS] for case in CASES for by in SHARES}
    FILE.write_text(_markdown(found), encoding="utf-8")
    return [
        {
            "what": f"{case.name}, {SHARES[by]}: AUROC", "measured": round(_auroc(courses), 4),
            "against": round(best := _auroc(found[CASES[0], by]), 4), "ratio": f"{_auroc(courses) - best:+.4f}",
            "target": "",
        }
        for (case, by), courses in found.items()
    ]  # fmt: skip


def _run(case: Case, by: Partition, seed: int) -> Course:
    normal = case.splits().train.normal()
    nodes = [Node(name, normal.x[rows]) for name, rows in zip(NODES, _shards(by), strict=True)]
    model = partial(_model, case, by)
    return one_process.run(nodes, rounds=ROUNDS, seed=seed, test=case.splits().test, model=model)


@cache
def _model(case: Case, by: Partition, seed: int) -> "FederatedModel":
    from dl_mqtt_clients import ScalerValues
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts, padded, vocabulary_from
    from dl_mqtt_clients.data.nsl_kdd import CATEGORIES
    from dl_mqtt_clients.learning.builders import build_core
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.vocabularies import NO_CATEGORIES, Categorical

    normal, categorical = case.splits().train.normal(), NO_CATEGORIES
    if case.min_nodes:
        categorical = Categorical(tuple(normal.features.index(name) for name in CATEGORIES), SIZE)
    scaler = ScalerValues.minmax(normal.x, categorical=categorical)
    if case.min_nodes:
        listed = [
            vocabulary_from(
                [CategoryCounts.of(normal.x[rows, column]) for rows in _shards(by)],
                size=SIZE, min_count=10, min_nodes=case.min_nodes,
            )
            for column in categorical.columns
        ]  # fmt: skip
        scaler = replace(scaler, codes=np.stack([padded(values, SIZE) for values in listed]))
    core = build_core(
        n_features=categorical.width(normal.x.shape[1]), hidden=(64, 16, 64), output_activation="sigmoid", seed=seed
    )
    return FederatedModel.from_core(core, features=normal.features, scaler=scaler)


@cache
def _shards(by: Partition) -> list[np.ndarray]:
    from dl_mqtt_clients.data.partition import partition

    return partition(data().train.normal(), NODES, by=by)


@cache
def _words() -> "Splits":
    from dl_mqtt_clients.data.nsl_kdd import CATEGORIES, load_nsl_kdd

    return load_nsl_kdd(shared("data", "nsl-kdd"), categorical=CATEGORIES)


@cache
def _numbers() -> "Splits":
    from dl_mqtt_clients.data.dataset import Splits
    from dl_mqtt_clients.data.nsl_kdd import NUMBERS

    parts = (data().train, data().validation, data().test)
    n = len(NUMBERS)
    return Splits(*(replace(part, x=np.ascontiguousarray(part.x[:, :n]), features=NUMBERS) for part in parts))


def _auroc(courses: list[Course]) -> float:
    return float(np.mean([course.auroc for course in courses]))


def _markdown(found: dict[tuple[Case, Partition], list[Course]]) -> str:
    lines = [f"| protocol, service and flag as | {' | '.join(SHARES.values())} |", "|---" * 3 + "|"]
    lines += [f"| {case.name} | {' | '.join(_cell(found[case, by]) for by in SHARES)} |" for case in CASES]
    return "\n".join(lines) + "\n"


def _cell(courses: list[Course]) -> str:
    aurocs = [c.auroc for c in courses]
    return f"{_auroc(courses):.3f} ({min(aurocs):.3f} … {max(aurocs):.3f})"
