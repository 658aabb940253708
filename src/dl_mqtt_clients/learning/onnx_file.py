"""An ONNX file that stands alone: graph and weights, scaling, verdict, and what is known of the version.

    reading [batch, features]  float32, raw
    score   [batch]            ≥ 0
    verdict [batch]            score > threshold; only where a threshold is known
    output  [batch, …]         supervised: the core's own outputs

The threshold is the constant `threshold` in the graph, and stands in the file's metadata.
"""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.wire.weights import key

_MOST_BYTES = 2**31 - 1  # of a protocol buffer


def standalone(
    graph: bytes, weights: Sequence[NDArray[Any]], *, threshold: float | None, facts: Mapping[str, str]
) -> bytes:
    """The file's bytes.

    Args:
        graph: what `make_graph` made.
        weights: by position, as the graph takes them.
        threshold: above it a score is an anomaly; None: the file gives no verdict.
        facts: metadata, by key.

    Raises:
        ModelError: the package onnx is not installed, or the model is too large for one file.

    """
    onnx = _package()
    if sum(w.nbytes for w in weights) + len(graph) > _MOST_BYTES:
        raise ModelError(f"onnx: expected a model of at most {_MOST_BYTES} bytes, the most one file holds")
    model = onnx.ModelProto.FromString(graph)
    given = {key(position): weight for position, weight in enumerate(weights)}
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(i for i in inputs if i.name not in given)
    named = (i.name for i in inputs if i.name in given)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.ascontiguousarray(given[n]), n) for n in named)
    if threshold is not None:
        _judge(onnx, model.graph, threshold)
    onnx.helper.set_model_props(model, {**facts, **({} if threshold is None else {"threshold": repr(threshold)})})
    model.producer_name = "dl_mqtt_clients"
    data: bytes = model.SerializeToString()
    return data


def _judge(onnx: Any, graph: Any, threshold: float) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(np.float32(threshold).reshape(()), "threshold"))
    graph.node.append(onnx.helper.make_node("Greater", ["score", "threshold"], ["verdict"]))
    graph.output.append(onnx.helper.make_tensor_value_info("verdict", onnx.TensorProto.BOOL, ["batch"]))


def _package() -> Any:
    try:
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ModelError(
            f"onnx: expected onnx to be installed (pip install 'dl-mqtt-clients[export]'). Received: {error}"
        ) from error
