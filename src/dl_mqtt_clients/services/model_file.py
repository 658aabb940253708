"""A predictor's model from an exported ONNX file, in place of the federation's production version."""

from pathlib import Path
from typing import Any

import msgspec

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.onnx_check import check_graph
from dl_mqtt_clients.learning.onnx_model import OnnxModel
from dl_mqtt_clients.wire.messages import Manifest
from dl_mqtt_clients.wire.transfer import sha256

_BYTES_A_PARAMETER = 8
_SPARE_BYTES = 16 * 1024 * 1024  # of the graph


def read_model_file(path: Path, settings: Settings) -> tuple[OnnxModel, Manifest]:
    """The model, and what the file says of its version; a file of another program is version 0, named by its hash.

    ModelError: it cannot be read, is larger than `model.max_parameters` allow, or is no such model.
    """
    most = settings.model.max_parameters * _BYTES_A_PARAMETER + _SPARE_BYTES
    try:
        if (size := path.stat().st_size) > most:
            raise ModelError(f"{path}: expected at most {most} bytes (model.max_parameters). Received: {size}")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: expected an exported .onnx file. Received: {error}") from error
    try:
        manifest = _manifest(check_graph(data, most_bytes=most), data)
        model = OnnxModel(data, task=manifest.task, features=manifest.features, most_bytes=most)
        model.set_weights(())  # they are in the file
    except (ModelError, ValueError) as error:
        raise ModelError(f"{path}: {str(error)[:500]}") from error
    return model, manifest


def _manifest(metadata: dict[str, str], data: bytes) -> Manifest:
    """Of what `fedlearn model export` notes in the file. ValueError when one of these is none of its kind."""
    facts: dict[str, Any] = {
        "stage": "production", "generation": 1, "serial": 1, "version": sha256(data), "number": 0, "round": 0,
        "lineage": "0" * 64, "blobs": {}, "variables": (),
    }  # fmt: skip
    noted = ("version", "number", "round", "lineage", "task", "threshold", "generation")
    facts |= {name: metadata[name] for name in noted if name in metadata}
    for name, kind in (("features", tuple[str, ...]), ("categorical", tuple[int, ...])):
        if name in metadata:
            facts[name] = msgspec.json.decode(metadata[name].encode(), type=kind)
    return msgspec.convert(facts, Manifest, strict=False)
