"""A federation in one process, without broker: the library's own fit, codecs and merge, and nodes that may lie.

NSL-KDD with the scaling and the core of `examples/nsl_kdd`: an untrained core has an AUROC of about 0.6 there, so that
what is learnt shows. (With `standard` scaling and a linear output it has 0.965 untrained, and nothing shows.)
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import shared

if TYPE_CHECKING:  # the backend is chosen before Keras is imported
    from dl_mqtt_clients.aggregation.strategies import Aggregator, Update
    from dl_mqtt_clients.data.dataset import Dataset
    from dl_mqtt_clients.learning.fit import FitResult
    from dl_mqtt_clients.learning.model import FederatedModel

MAX_DELTA, MAX_EXAMPLES = 100.0, 10_000  # the settings' defaults: what a manager refuses, and its cap of examples
SEED = 1

Change = list[np.ndarray]
# own honest change, everybody's, randomness -> what is sent
Lie = Callable[[Change, Sequence[Change], np.random.Generator], Change]


@dataclass(frozen=True, eq=False)
class Node:
    name: str
    x: np.ndarray  # readings it trains on
    lie: Lie | None = None
    claims: int = 0  # examples it says it has; 0: the truth


# node, base of the fit -> which of its readings it trains on
Window = Callable[[Node, Sequence[np.ndarray]], np.ndarray]


@dataclass
class Course:
    """What a run came to."""

    auroc: float = float("nan")  # after the last round; NaN: scores are no numbers
    marks: dict[int, float] = field(default_factory=dict)  # round -> AUROC after it
    norms: list[list[float]] = field(default_factory=list)  # by round, of the honest updates
    refused: int = 0  # updates
    untrained: int = 0  # honest fits that diverged: nothing was offered
    abandoned: int = 0  # rounds with too few updates
    bytes: int = 0  # of one update as it travels
    errors: list[tuple[float, float, float]] = field(default_factory=list)  # largest, rms; rms of the change


def run(
    nodes: Sequence[Node],
    *,
    strategy: str = "FedAvg",
    codec: str = "float32",
    rounds: int = 20,
    seed: int = SEED,
    marks: Sequence[int] = (),
    window: Window = lambda node, _weights: node.x,
    model: Callable[[int], "FederatedModel"] | None = None,
    test: "Dataset | None" = None,
) -> Course:
    """`rounds` rounds of all nodes, one epoch each, measured after the `marks` too; same arguments, same bits.

    `model`: seed -> another one than the example's; `test`: its test rows.
    """
    federation = _Federation(nodes, strategy, codec, seed, window, (model or example)(seed))
    for number in range(rounds):
        federation.round(number)
        if number + 1 in marks:
            federation.course.marks[number + 1] = federation.auroc(test)
    federation.course.auroc = federation.auroc(test)
    return federation.course


def one_thread() -> None:
    """For worker processes, before JAX is imported: each has a core to itself."""
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@cache
def data():
    """NSL-KDD's splits. SystemExit when it is not beside the checkout."""
    from dl_mqtt_clients.data.nsl_kdd import load_nsl_kdd

    folder = shared("data", "nsl-kdd")
    if folder is None:
        raise SystemExit("NSL-KDD is not in ../shared/data/nsl-kdd (set FEDLEARN_SHARED)")
    return load_nsl_kdd(folder)


@cache
def example(seed: int = SEED) -> "FederatedModel":
    """The example's core under its scaler, untrained."""
    from dl_mqtt_clients import ScalerValues
    from dl_mqtt_clients.learning.backend import use_backend

    use_backend("jax")
    from dl_mqtt_clients.learning.builders import build_core
    from dl_mqtt_clients.learning.model import FederatedModel

    normal = data().train.normal()
    core = build_core(
        n_features=normal.x.shape[1], task="anomaly", hidden=(64, 16, 64), activation="relu",
        output_activation="sigmoid", loss="", learning_rate=1e-3, seed=seed,
    )  # fmt: skip
    return FederatedModel.from_core(core, features=normal.features, scaler=ScalerValues.minmax(normal.x))


@cache
def base_weights(model: "FederatedModel") -> tuple[np.ndarray, ...]:
    """As it was made: it is trained later."""
    return tuple(model.get_weights())


def untrained_auroc() -> float:
    """Of the example."""
    return run((), rounds=0).auroc


class _Federation:
    def __init__(
        self,
        nodes: Sequence[Node],
        strategy: str,
        codec: str,
        seed: int,
        window: Window,
        model: "FederatedModel",
    ) -> None:
        from dl_mqtt_clients.aggregation.strategies import read_strategy
        from dl_mqtt_clients.wire.codecs import as_changes
        from dl_mqtt_clients.wire.codecs import codec as codec_of
        from dl_mqtt_clients.wire.weights import update_positions

        self.course = Course()
        self._nodes, self._seed, self._window = nodes, seed, window
        self._strategy, self._codec = read_strategy(strategy), codec_of(codec)
        self._model, self._variables = model, model.variables
        self._positions = update_positions(self._variables)
        self._travelling = as_changes(self._variables)
        self.weights = list(base_weights(model))
        self._state: dict[str, np.ndarray] | None = None
        self._residuals: dict[str, list[np.ndarray] | None] = {}

    def auroc(self, test: "Dataset | None") -> float:
        """On KDDTest+."""
        from dl_mqtt_clients.errors import ModelError
        from dl_mqtt_clients.learning.evaluation import auroc

        test = test or data().test
        self._model.set_weights(list(self.weights))
        try:
            return auroc(self._model.scores(test.x), test.y) or 0.0
        except ModelError:  # scores that are no numbers
            return float("nan")

    def round(self, number: int) -> None:
        from dl_mqtt_clients.aggregation.strategies import Aggregator
        from dl_mqtt_clients.errors import RefusedError

        aggregator = Aggregator(
            self._strategy, self._variables, base=self.weights, state=self._state,
            max_delta=MAX_DELTA, max_examples=MAX_EXAMPLES, max_updates=1000,
        )  # fmt: skip
        counted = [u for u in self._offers(number) if self._is_counted(aggregator, u)]
        try:
            merged = aggregator.result(counted)
        except RefusedError:
            self.course.abandoned += 1
            return
        self._state = merged.state
        for position, change in zip(self._positions, merged.change, strict=True):
            self.weights[position] = (self.weights[position] + change).astype(np.float32)

    def _offers(self, number: int) -> Iterator["Update"]:
        """Updates as the manager decodes them, of all whose fit did not diverge."""
        from dl_mqtt_clients.aggregation.strategies import Update

        fits = {node: fitted for node in self._nodes if (fitted := self._fit(node, number))}
        changes = [change for change, _ in fits.values()]
        self.course.norms.append([_norm(change) for node, (change, _) in fits.items() if not node.lie])
        for node, (honest, result) in fits.items():
            rng = np.random.default_rng(self._fit_seed(node, number))
            change = [c.astype(np.float32) for c in node.lie(honest, changes, rng)] if node.lie else honest
            arrays = self._travel(node.name, change, self._fit_seed(node, number))
            yield Update(node=node.name, arrays=arrays, examples=node.claims or result.examples, steps=result.steps)

    def _fit(self, node: Node, number: int) -> tuple[Change, "FitResult"] | None:
        from dl_mqtt_clients.errors import ModelError
        from dl_mqtt_clients.learning.fit import fit
        from dl_mqtt_clients.wire.messages import Training

        seed, training = self._fit_seed(node, number), Training()
        try:
            x = self._window(node, self.weights)
            result = fit(self._model, self.weights, x, None, training=training, seed=seed)
        except ModelError:
            self.course.untrained += 1
            return None
        return [result.weights[p] - self.weights[p] for p in self._positions], result

    def _fit_seed(self, node: Node, number: int) -> int:
        from dl_mqtt_clients.aggregation.cohort import fit_seed

        return fit_seed(f"bench{self._seed}", round_number=number, attempt=1, node=node.name)

    def _travel(self, name: str, change: Change, seed: int) -> Change:
        if self._codec.scheme is None and self.course.bytes:
            return change
        sent = self._codec.encode(
            change, self._travelling, self._positions, seed=seed, residual=self._residuals.get(name)
        )
        self._residuals[name] = sent.residual
        received = self._codec.decode(sent.data, self._travelling, self._positions)
        self.course.bytes = len(sent.data)
        wrong = np.concatenate([(r - c).ravel() for r, c in zip(received, change, strict=True)]).astype(float)
        right = np.concatenate([c.ravel() for c in change]).astype(float)
        self.course.errors.append((float(np.abs(wrong).max()), _rms(wrong), _rms(right)))
        return received

    def _is_counted(self, aggregator: "Aggregator", update: "Update") -> bool:
        from dl_mqtt_clients.errors import RefusedError

        is_small = max(float(np.abs(a).max()) for a in update.arrays) <= MAX_DELTA
        try:
            if is_small:
                aggregator.add(update)
        except RefusedError:
            is_small = False
        self.course.refused += not is_small
        return is_small


def _norm(change: Change) -> float:
    return float(np.sqrt(sum(float(np.sum(c**2)) for c in change)))


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))
