"""Which of Keras's backends computes, chosen before Keras is imported. Importing this module imports no Keras."""

import contextlib
import importlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from dl_mqtt_clients.errors import ModelError

BACKENDS: Final = ("jax", "tensorflow", "torch")

_log = logging.getLogger(__name__)
_PROBE_DEADLINE_S: Final = 120.0

# One matrix product on the accelerator, in a process of its own: a wrong driver may abort or hang the process.
_PROBES: Final = {
    "jax": "import jax; x = jax.numpy.ones((8, 8)); (x @ x).block_until_ready(); print(jax.devices()[0].platform)",
    "tensorflow": "import tensorflow as tf; x = tf.ones((8, 8)); (x @ x).numpy();"
    " print('gpu' if tf.config.list_physical_devices('GPU') else 'cpu')",
    "torch": "import torch; x = torch.ones((8, 8), device='cuda'); (x @ x).cpu(); print('gpu')",
}


def use_backend(name: str | None = None, *, gpu: bool = False, compile_cache: Path | None = None) -> str:
    """Choose Keras's backend and import Keras; returns the backend's name.

    Args:
        name: `jax`, `tensorflow` or `torch`. None: the environment's KERAS_BACKEND, else `jax`.
        gpu: try one operation on the accelerator; if that fails, say so and use the CPU.
        compile_cache: folder of JAX's compiled programs, so that only a node's first start compiles.
            None: `$XDG_CACHE_HOME/dl_mqtt_clients/jax` (`~/.cache/…`).

    Raises:
        ModelError: unknown or not installed, or Keras is already imported with another backend.

    """
    name = name or os.environ.get("KERAS_BACKEND") or "jax"
    if name not in BACKENDS:
        raise ModelError(f"backend: expected one of {', '.join(BACKENDS)}. Received: {name!r}")
    if "keras" in sys.modules:
        return _check_imported(name)
    os.environ.update(_environment(name))
    if not (gpu and _gpu_works(name)):
        os.environ.update(_cpu_only(name))
    if name == "jax":
        _cache_compilations(compile_cache or _default_cache())
    return _import_keras(name)


def _check_imported(name: str) -> str:
    imported: str = sys.modules["keras"].backend.backend()
    if imported != name:
        raise ModelError(
            f"backend: expected Keras not to be imported yet, or with {name!r}. Received: it runs on"
            f" {imported!r}; call use_backend before anything imports Keras, or set KERAS_BACKEND={name}"
        )
    return imported


def _environment(name: str) -> Mapping[str, str]:
    """Backend, silence, and memory and cores taken only as needed; what the environment says already stays."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    frugal = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    # PyTorch's threads wait by spinning otherwise: on a busy device a step takes ten times as long (measured).
    polite = {"OMP_WAIT_POLICY": "PASSIVE"}
    wanted = {key: os.environ.get(key, value) for key, value in (quiet | frugal | polite).items()}
    return {"KERAS_BACKEND": name, **wanted}


def _cpu_only(name: str) -> Mapping[str, str]:
    return {
        "jax": {"JAX_PLATFORMS": "cpu"},
        "tensorflow": {"CUDA_VISIBLE_DEVICES": "-1"},
        "torch": {"KERAS_TORCH_DEVICE": "cpu"},
    }[name]


def _gpu_works(name: str) -> bool:
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBES[name]],
            capture_output=True,
            text=True,
            timeout=_PROBE_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        reason = f"no answer within {_PROBE_DEADLINE_S:.0f} s"
    else:
        device = probe.stdout.strip().rpartition("\n")[2]
        if probe.returncode == 0 and device not in ("", "cpu"):
            return True
        reason = probe.stderr.strip().rpartition("\n")[2] or f"{name} sees no accelerator"
    _log.warning("gpu: one operation on the accelerator failed (%s); using the CPU", reason[:300])
    return False


def _default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dl_mqtt_clients" / "jax"


def _cache_compilations(folder: Path) -> None:
    """Every program is kept, however small: starting a service is hundreds of small ones."""
    try:
        # Compiled programs are executed when read: no one else may write them.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("compile cache: %s cannot be used (%s); every start compiles again", folder, error)
        return
    settings: dict[str, str | int] = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    os.environ.update({key.upper(): str(value) for key, value in settings.items()})
    if "jax" in sys.modules:  # too late for the environment
        for key, value in settings.items():
            sys.modules["jax"].config.update(key, value)


def _import_keras(name: str) -> str:
    try:
        with _hidden("matplotlib"):  # for keras.visualization alone it costs a third of every start, and 25 MB
            importlib.import_module("keras")
    except ImportError as error:
        raise ModelError(
            f"backend: expected {name} to be installed (pip install 'dl-mqtt-clients[{name}]'). Received: {error}"
        ) from error
    if name == "tensorflow":
        # It warns of one trace for each batch size, which is what we want.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
    else:
        _keep_tensorflow_out()
    return name


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """As if this package were not installed, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[name]


def _keep_tensorflow_out() -> None:
    """Keras imports TensorFlow, where installed, on any backend once it serialises: 3 s and 300 MB for nothing."""
    utilities = importlib.import_module("keras.src.utils.module_utils")
    lazy = getattr(utilities, "tensorflow", None)
    if getattr(lazy, "_available", True) is None:  # not yet asked; anything else is not ours to change
        lazy._available = False  # type: ignore[union-attr]  # noqa: SLF001
