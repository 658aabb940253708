"""The model of a federation without Keras: an ONNX graph in ONNX Runtime (extra `edge`). Imports no Keras.

reading [batch, features]  float32, raw
0000, 0001, …              weights by their position in the manifest, as far as the graph takes them from outside
score   [batch]            ≥ 0
output  [batch, …]         supervised: the core's own outputs
"""

import importlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.onnx_check import check_graph
from dl_mqtt_clients.learning.rows import as_readings
from dl_mqtt_clients.wire.messages import Task, Variable
from dl_mqtt_clients.wire.weights import key

READING: Final = "reading"
MOST_ROWS: Final = 4096  # in one call; more are scored in parts
_MAX_VALUES: Final = 2**22  # of readings in one call
_DTYPES: Final = {"float": "float32", "double": "float64"}  # ONNX Runtime's name -> NumPy's; others are the same


class OnnxModel:
    """What a predictor needs of a `FederatedModel`, by ONNX Runtime. Not thread-safe: one thread owns it.

    Args:
        graph: an ONNX model; untrusted.
        task: with `supervised` it puts out its outputs as well.
        features: names of the readings' values, or none.
        threads: that compute; more take more memory.

    Raises:
        ModelError: no ONNX model, not allowed (see `onnx_check`), or not of these inputs and outputs; or ONNX Runtime
            is not installed.

    """

    batch_sizes: tuple[int, ...] = (1,)  # any number of rows runs as it is: one is enough to try it

    def __init__(
        self, graph: bytes, *, task: Task, features: Sequence[str] = (), most_bytes: int = 2**31, threads: int = 1
    ) -> None:
        self.metadata = check_graph(graph, most_bytes=most_bytes)
        self.architecture = graph
        self.task: Task = task
        self.features = tuple(features)
        self._session = _session(graph, threads)
        self._inputs = {i.name: (tuple(i.shape), _dtype(i.type)) for i in self._session.get_inputs()}
        self.n_features = _width(self._inputs.pop(READING, None))
        self._outputs = ["score", "output"] if task == "supervised" else ["score"]
        missing = set(self._outputs) - {o.name for o in self._session.get_outputs()}
        if missing:
            raise ModelError(f"onnx: expected outputs {', '.join(self._outputs)}. Missing: {', '.join(missing)}")
        self._rows = max(1, min(MOST_ROWS, _MAX_VALUES // self.n_features))
        self._weights: list[NDArray[Any]] = []
        self._feeds: dict[str, NDArray[Any]] = {}

    def take_roles(self, variables: Sequence[Variable]) -> None:
        """ModelError when the weights that the graph takes are not among those that a manifest lists."""
        listed = {key(p): (tuple(v.shape), v.dtype) for p, v in enumerate(variables)}
        wrong = [name for name, wanted in self._inputs.items() if listed.get(name) != wanted]
        if wrong:
            raise ModelError(f"manifest: its list of variables is not that of its ONNX graph: {wrong[0][:100]}")

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Take these values, by position. ModelError when shape or dtype differs; nothing changed then."""
        given = {key(p): w for p, w in enumerate(weights)}
        for name, (shape, dtype) in self._inputs.items():
            value = given.get(name)
            if value is None or value.shape != shape or value.dtype != dtype:
                received = "nothing" if value is None else f"{value.dtype} {value.shape}"
                raise ModelError(f"weights: expected {dtype} {shape} for {name}. Received: {received}")
        self._weights = [np.array(w) for w in weights]
        self._feeds = {key(p): w for p, w in enumerate(self._weights) if key(p) in self._inputs}

    def get_weights(self) -> list[NDArray[Any]]:
        """Copies of what was set."""
        return [np.array(w) for w in self._weights]

    def scores(self, x: ArrayLike) -> NDArray[np.float32]:
        """Raw readings [n, features] -> scores [n], ≥ 0. ModelError when the shape is another."""
        return self.predict(x)[0]

    def predict(self, x: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores [n], and for `supervised` the core's outputs [n, …]."""
        rows = as_readings(x, features=self.n_features)
        starts = range(0, len(rows), self._rows) or range(1)
        parts = [self._run(rows[start : start + self._rows], self._outputs) for start in starts]
        joined = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        return joined[0], joined[1] if self.task == "supervised" else None

    def outputs(self, x: ArrayLike) -> dict[str, NDArray[Any]]:
        """All outputs by name, an exported file's verdicts among them. Readings [n, features], n at most 4096."""
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, self._run(as_readings(x, features=self.n_features), names), strict=True))

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Compute once: what cannot be computed is found out now."""
        for size in batch_sizes:
            self.scores(np.zeros((size, self.n_features), np.float32))

    def _run(self, rows: NDArray[np.float32], names: list[str]) -> list[NDArray[Any]]:
        try:
            found: list[NDArray[Any]] = self._session.run(names, {READING: rows, **self._feeds})
        except Exception as error:  # ONNX Runtime has a tree of its own, in a binary module
            raise ModelError(f"onnx: cannot be computed: {type(error).__name__}: {str(error)[:500]}") from error
        if found[0].shape != (len(rows),):
            raise ModelError(f"onnx: expected {names[0]} of shape [{len(rows)}]. Received: {found[0].shape}")
        return found


def runtime() -> Any:
    """The package onnxruntime. ModelError when it is not installed."""
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ModelError(
            f"onnx: expected ONNX Runtime to be installed (pip install 'dl-mqtt-clients[edge]'). Received: {error}"
        ) from error


def _session(graph: bytes, threads: int) -> Any:
    ort = runtime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it keeps what the largest batch needed
    options.log_severity_level = 3  # errors
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise ModelError(f"onnx: cannot be loaded: {type(error).__name__}: {str(error)[:500]}") from error


def _width(reading: tuple[tuple[Any, ...], str] | None) -> int:
    if reading is None or len(reading[0]) != 2 or not isinstance(reading[0][1], int) or reading[1] != "float32":
        raise ModelError(f"onnx: expected an input {READING}, float32 [batch, features]. Received: {reading}")
    return reading[0][1]


def _dtype(name: str) -> str:
    inner = name.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)
