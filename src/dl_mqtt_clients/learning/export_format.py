"""Which format a file's name asks for. Imports no Keras."""

from pathlib import Path
from typing import Literal

from dl_mqtt_clients.errors import ModelError

Format = Literal["onnx", "litert", "saved_model"]


def format_of(path: Path) -> Format:
    """By the name's ending: `.onnx`, `.tflite`; a SavedModel is a folder, without any. ModelError for another."""
    formats: dict[str, Format] = {".onnx": "onnx", ".tflite": "litert", "": "saved_model"}
    if path.suffix not in formats:
        raise ModelError(f"{path}: expected an ending .onnx or .tflite, or none. Received: {path.suffix}")
    return formats[path.suffix]
