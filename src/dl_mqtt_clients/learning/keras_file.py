"""A `.keras` file from outside, checked before Keras opens it: nothing in it is executed."""

import json
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning import allow_list
from dl_mqtt_clients.learning.description import MAX_BYTES, check_size
from dl_mqtt_clients.learning.roles import roles_of
from dl_mqtt_clients.wire.messages import Variable

_BYTES_A_PARAMETER: Final = 32  # float64, with two more values of the optimizer's, and something over
_SPARE_BYTES: Final = 64 * 1024 * 1024  # of HDF5's own in a model of many small variables


def load_keras_file(path: Path, *, max_parameters: int, custom_modules: Sequence[str] = ()) -> keras.Model:
    """The model in the file, compiled if it was.

    Args:
        path: a `.keras` archive (Keras 3).
        max_parameters: more are refused before anything is allocated.
        custom_modules: modules whose registered classes may be used, from the user's own configuration.

    Raises:
        ModelError: no such file, not an archive of Keras's, too large, or a layer that is not on the allow-list.

    """
    allow_list.import_modules(custom_modules)
    config = _config(path, max_parameters)
    allow_list.check(config, place=path.name, custom_modules=custom_modules)
    check_size({key: value for key, value in config.items() if key != "compile_config"}, max_parameters)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer's state was not kept: each fit begins with a fresh one
            model = keras.saving.load_model(path, safe_mode=True)
    except Exception as error:
        raise ModelError(f"{path}: Keras cannot load it: {type(error).__name__}: {str(error)[:500]}") from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"{path}: expected a keras.Model. Received: {type(model).__name__}")
    return model


def variables_of(model: keras.Model) -> tuple[Variable, ...]:
    """Role, shape, dtype and path of every weight, in the model's order."""
    return tuple(
        Variable(
            role=role,
            shape=tuple(int(size) for size in weight.shape),
            dtype=keras.backend.standardize_dtype(weight.dtype),
            path=weight.path,
        )
        for weight, role in zip(model.weights, roles_of(model), strict=True)
    )


def summary_of(model: keras.Model) -> str:
    """Keras's table of layers, output shapes and parameters."""
    lines: list[str] = []
    model.summary(print_fn=lambda text, line_break=False: lines.append(text), line_length=78)  # noqa: ARG005
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines())


def _config(path: Path, max_parameters: int) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            _check_entries(path, sizes, max_parameters)
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelError(f"{path}: expected a .keras file. Received: {str(error)[:200]}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected the configuration of a model. Received: {type(config).__name__}")
    return config


def _check_entries(path: Path, sizes: dict[str, int], max_parameters: int) -> None:
    """A small archive can unpack to a large one: its own table of sizes is looked at first."""
    most = max_parameters * _BYTES_A_PARAMETER + _SPARE_BYTES
    if sizes.get("config.json", 0) > MAX_BYTES or sum(sizes.values()) > most:
        raise ModelError(f"{path}: expected at most {most} bytes unpacked. Received: {sum(sizes.values())}")
