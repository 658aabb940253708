"""ONNX graphs made by hand, so that few tests wait for a converter."""

from collections.abc import Sequence
from typing import Any

import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed (extra export)")
pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra edge)")

from onnx import TensorProto, helper  # noqa: E402

from dl_mqtt_clients.wire.weights import key  # noqa: E402


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
    return helper.make_node(kind, list(inputs), [output], **attributes)


def dense_graph(variables: Sequence[Any], *, last: Sequence[Any] = (), **changes: Any) -> bytes:
    """What a converter makes of `build_core(task="anomaly")`: scaler, dense layers with ReLU, mean squared error.

    `last`: more nodes · `changes`: of the model, such as other operator sets.
    """
    nodes = [node("Sub", ["reading", "0000"], "shifted"), node("Mul", ["shifted", "0001"], "scaled")]
    value = "scaled"
    for place in range(2, len(variables), 2):
        nodes += [
            node("MatMul", [value, key(place)], f"m{place}"),
            node("Add", [f"m{place}", key(place + 1)], f"a{place}"),
        ]
        value = f"a{place}"
        if place + 2 < len(variables):
            nodes.append(node("Relu", [value], f"r{place}"))
            value = f"r{place}"
    nodes += [node("Sub", [value, "scaled"], "missed"), node("Mul", ["missed", "missed"], "squared")]
    nodes += [node("ReduceMean", ["squared", "axes"], "score", keepdims=0), *last]
    features = variables[0].shape[0]
    inputs = [helper.make_tensor_value_info("reading", TensorProto.FLOAT, ["batch", features])]
    inputs += [helper.make_tensor_value_info(key(i), TensorProto.FLOAT, v.shape) for i, v in enumerate(variables)]
    score = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    return model_of(helper.make_graph(nodes, "hand", inputs, [score], [axes]), **changes)


def model_of(graph: Any, **changes: Any) -> bytes:
    """A whole model's bytes."""
    settings: dict[str, Any] = {"opset_imports": [helper.make_opsetid("", 20)], "ir_version": 9, **changes}
    return helper.make_model(graph, **settings).SerializeToString()
