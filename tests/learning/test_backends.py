"""Backends in processes of their own: what `use_backend` sets, and that all three agree."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.backend import BACKENDS, use_backend
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.wire.messages import Training


def python(script, *arguments, **environment):
    """Run a script in a new process; its last printed line, as JSON."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS_", "JAX_", "XLA_"))}
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("\n{")[2].join(["{", ""]) if "\n{" in done.stdout else done.stdout)


def test_importing_the_module_imports_no_keras():
    script = "import json, sys, dl_mqtt_clients.learning.backend; print(json.dumps('keras' in sys.modules))"
    assert python(script) is False


def test_an_unknown_backend_and_a_second_one_are_refused():
    with pytest.raises(ModelError, match=r"expected one of jax, tensorflow, torch\. Received: 'theano'"):
        use_backend("theano")
    assert use_backend(keras.backend.backend()) == keras.backend.backend()
    other = next(name for name in BACKENDS if name != keras.backend.backend())
    with pytest.raises(ModelError, match="it runs on"):
        use_backend(other)


# (getrusage would count the peak of the process that started this one)
needs_jax = pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")


@needs_jax
def test_jax_keeps_its_compiled_programs_and_stays_small(tmp_path):
    """Scores and a fit of the BETH-sized autoencoder; TensorFlow stays out even where it is installed."""
    script = """
import json, sys
from pathlib import Path
from dl_mqtt_clients.learning.backend import use_backend
use_backend("jax", compile_cache=Path(sys.argv[1]))
import numpy as np
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.wire.messages import Training
model = FederatedModel.from_core(build_core(n_features=38))
x = np.random.default_rng(0).normal(size=(5000, 38))
model.warm_up([1, 16, 256, 4096])
fit(model, model.get_weights(), x, None, training=Training(), seed=1)
print(json.dumps({"kilobytes": int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]),
                  "tensorflow": "tensorflow" in sys.modules}))
"""
    folder = tmp_path / "cache"
    seen = python(script, folder)
    assert seen["tensorflow"] is False
    assert seen["kilobytes"] < 600_000
    assert any(folder.iterdir())
    assert folder.stat().st_mode & 0o077 == 0


def test_a_gpu_that_does_not_work_is_said_so_and_the_cpu_used():
    script = """
import json, logging, os
records = []
class Keep(logging.Handler):
    def emit(self, record):
        records.append(record.getMessage())
logging.getLogger().addHandler(Keep())
from dl_mqtt_clients.learning import backend
backend._PROBES["jax"] = "raise SystemExit('no such device')"
backend.use_backend("jax", gpu=True)
print(json.dumps({"said": records[0], "platform": os.environ["JAX_PLATFORMS"]}))
"""
    seen = python(script)
    assert "no such device" in seen["said"]
    assert "using the CPU" in seen["said"]
    assert seen["platform"] == "cpu"


def test_a_cache_folder_that_cannot_be_made_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").write_text("")
    script = """
import json, os, sys
from pathlib import Path
from dl_mqtt_clients.learning.backend import _cache_compilations
_cache_compilations(Path(sys.argv[1]))
print(json.dumps("JAX_COMPILATION_CACHE_DIR" in os.environ))
"""
    assert python(script, tmp_path / "file" / "cache") is False


ONE_FIT = """
import json, sys
from pathlib import Path
from dl_mqtt_clients.learning.backend import use_backend
use_backend()
import numpy as np
from dl_mqtt_clients.learning.architecture import rebuild, describe
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.wire.messages import Training
folder = Path(sys.argv[1])
model = rebuild((folder / "architecture.json").read_bytes())
with np.load(folder / "base.npz") as file:
    base, x = [file[f"w{i}"] for i in range(len(model.variables))], file["x"]
result = fit(model, base, x, None, training=Training(epochs=2), seed=3)
np.savez(sys.argv[2], *result.weights, scores=model.scores(x))
again = describe(model.core, task="anomaly", features=()) == model.architecture
print(json.dumps({"loss": result.loss, "same_description": again,
                  "variables": [[v.role, list(v.shape), v.dtype, v.path] for v in model.variables]}))
"""


@pytest.mark.parametrize("other", BACKENDS)
def test_all_backends_agree_after_one_local_fit(other, autoencoder, readings, tmp_path):
    if not importlib.util.find_spec(other):
        pytest.skip(f"{other} is not installed")
    base = autoencoder.get_weights()
    (tmp_path / "architecture.json").write_bytes(autoencoder.architecture)
    np.savez(tmp_path / "base.npz", x=readings, **{f"w{i}": w for i, w in enumerate(base)})
    seen = python(ONE_FIT, tmp_path, tmp_path / "out.npz", KERAS_BACKEND=other)
    here = rebuild(autoencoder.architecture)
    result = fit(here, base, readings, None, training=Training(epochs=2), seed=3)
    with np.load(tmp_path / "out.npz") as file:
        theirs = [file[f"arr_{i}"] for i in range(len(base))]
        scores = file["scores"]
    assert max(np.abs(a - b).max() for a, b in zip(theirs, result.weights, strict=True)) < 1e-5
    assert np.allclose(scores, here.scores(readings), rtol=1e-3, atol=1e-5)
    assert seen["loss"] == pytest.approx(result.loss, rel=1e-4)
    assert seen["same_description"]
    assert seen["variables"] == [[v.role, list(v.shape), v.dtype, v.path] for v in here.variables]
