"""An architecture as an ONNX graph that takes its weights as inputs: made once, it serves every version.

It is made in a process of its own, which ends with it, on whichever backend is installed that can: JAX through
jax2onnx, or PyTorch through its own exporter (TensorFlow has none that works with Keras 3). So a manager on any backend
can make it, and does not keep what the converters import. Importing this module imports no Keras.

See `onnx_model` for the graph's inputs and outputs.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.backend import use_backend
from dl_mqtt_clients.learning.onnx_check import MAX_GRAPH_BYTES
from dl_mqtt_clients.learning.onnx_model import READING
from dl_mqtt_clients.wire.weights import key

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

OPSET: Final = 20  # of 2023: old devices' ONNX Runtime knows it
DEADLINE_S: Final = 900.0  # a slow device converts a large model
_NEEDED: Final = {"jax": ("jax", "jax2onnx"), "torch": ("torch", "onnxscript")}


def converter() -> str:
    """The backend that graphs are made on. ModelError when none is installed."""
    for backend, packages in _NEEDED.items():
        if all(importlib.util.find_spec(package) for package in packages):
            return backend
    wanted = " or ".join(" with ".join(packages) for packages in _NEEDED.values())
    raise ModelError(f"onnx: expected {wanted} (pip install 'dl-mqtt-clients[export]'). Received: none of them")


def make_graph(architecture: bytes, *, max_parameters: int = 200_000_000, custom_modules: Sequence[str] = ()) -> bytes:
    """The architecture (see `rebuild`) as an ONNX model without weights; takes seconds.

    Raises:
        ModelError: no converter is installed, or the one that is cannot convert a layer; it says which.

    """
    command = [sys.executable, "-m", __name__, converter(), str(max_parameters), *custom_modules]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # custom modules are found as here
    try:
        made = subprocess.run(
            command, input=architecture, capture_output=True, timeout=DEADLINE_S, check=False, env=environment
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"onnx: expected the conversion to end within {DEADLINE_S:.0f} s. Received: no end") from error
    if made.returncode != 0:
        reason = made.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ModelError(f"onnx: the model cannot be converted: {reason[:500]}")
    if len(made.stdout) > MAX_GRAPH_BYTES:
        raise ModelError(f"onnx: expected a graph of at most {MAX_GRAPH_BYTES} bytes. Received: {len(made.stdout)}")
    return made.stdout


# ---- in the process of its own -------------------------------------------------------------------------------


def _main(backend: str, max_parameters: str, *custom_modules: str) -> None:
    result = os.dup(1)
    os.dup2(2, 1)  # converters talk
    use_backend(backend)
    from dl_mqtt_clients.learning.architecture import rebuild  # noqa: PLC0415 - imports Keras

    model = rebuild(sys.stdin.buffer.read(), max_parameters=int(max_parameters), custom_modules=custom_modules)
    proto = _by_jax(model) if backend == "jax" else _by_torch(model)
    _strip(proto)
    with os.fdopen(result, "wb") as file:
        file.write(proto.SerializeToString())


def _by_jax(model: "FederatedModel") -> Any:
    import jax  # noqa: PLC0415
    import jax2onnx  # noqa: PLC0415

    inputs, outputs = _names(model)
    reading = jax.ShapeDtypeStruct(("batch", model.n_features), np.float32)
    return jax2onnx.to_onnx(
        _call(model, outputs),
        [reading, *(jax.ShapeDtypeStruct(v.shape, v.dtype) for v in model.variables)],
        model_name="federated",
        opset=OPSET,
        input_names=inputs,
        output_names=outputs,
    )


def _by_torch(model: "FederatedModel") -> Any:
    import torch  # noqa: PLC0415

    inputs, outputs = _names(model)
    call = _call(model, outputs)

    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any, *weights: Any) -> Any:
            return call(x, *weights)

    rows = torch.zeros((2, model.n_features))  # a batch of one would be taken for a constant
    program = torch.onnx.export(
        Module().eval(),
        (rows, *(torch.tensor(w) for w in model.get_weights())),
        dynamo=True,
        opset_version=OPSET,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}, "weights": tuple({} for _ in model.variables)},
    )
    return program.model_proto


def _names(model: "FederatedModel") -> tuple[list[str], list[str]]:
    inputs = [READING, *(key(position) for position in range(len(model.variables)))]
    return inputs, ["score", "output"] if model.task == "supervised" else ["score"]


def _call(model: "FederatedModel", outputs: Sequence[str]) -> Any:
    def call(x: Any, *weights: Any) -> tuple[Any, ...]:
        found = model.outputs_under(weights, x)
        return tuple(found[name] for name in outputs)

    return call


def _strip(proto: Any) -> None:
    """Leave out what converters note for people: among it the names of this machine's files."""
    for node in proto.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for noted in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        noted.doc_string = ""
        del noted.metadata_props[:]
    del proto.graph.value_info[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
    proto.doc_string = ""


if __name__ == "__main__":
    _main(*sys.argv[1:])
