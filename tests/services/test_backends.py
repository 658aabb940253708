"""The backend of KERAS_BACKEND in a federation, and a federation of mixed backends: they agree to 1e-5."""

import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest

from dl_mqtt_clients.learning.backend import use_backend
from service_helpers import core, readings, start_manager, trainers

BACKENDS = ("jax", "tensorflow", "torch")
TRAINER = """
import sys
import numpy as np
from dl_mqtt_clients import Settings, Trainer

node, url, folder, federation = sys.argv[1:5]
settings = Settings().replace(**{
    "broker.url": url, "node.state_dir": folder, "federation.name": federation, "readings.holdout_block": 16,
})
Trainer(node, settings=settings, readings=np.load(f"{folder}/{node}.npy")).run()
"""


def one_round(new_settings, url, backends, tmp_path, federation):
    """Weights after one round of three trainers as processes, each with its backend."""
    folder = tmp_path / "-".join(backends)
    folder.mkdir()
    with ExitStack() as stack:
        for node, backend in zip("abc", backends, strict=True):
            np.save(folder / f"{node}.npy", readings(ord(node)))
            process = subprocess.Popen(
                [sys.executable, "-c", TRAINER, node, url, str(folder), federation],
                env={**os.environ, "KERAS_BACKEND": backend},
            )
            stack.callback(process.wait, 30)
            stack.callback(process.terminate)
        settings = new_settings(
            url, node__state_dir=str(folder), rounds__target_updates=3, rounds__min_updates=3, rounds__deadline_s=180.0
        )
        return start_manager(settings, rounds=1).run().versions.weights


def test_three_trainers_on_this_backend_learn(memory_url, new_settings):
    reports = []
    settings = new_settings(memory_url, rounds__target_updates=3, rounds__min_updates=3)
    with trainers(settings) as running:
        start_manager(settings, model=core(), rounds=3, on_round=reports.append).run()
        assert {t.backend for t in running} == {use_backend()}
    assert reports[-1].metrics.loss < reports[0].metrics.loss


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(use_backend() != "jax", reason="once is enough: runs with KERAS_BACKEND=jax")
def test_a_federation_of_mixed_backends_agrees_with_one_of_jax_alone(
    new_settings, shared_embedded_url, tmp_path, unique_name
):
    installed = [b for b in BACKENDS if importlib.util.find_spec(b)]
    if len(installed) < len(BACKENDS):
        pytest.skip(f"needs {', '.join(BACKENDS)}; installed: {', '.join(installed)} (make test_backends)")
    alone = one_round(new_settings, shared_embedded_url, ("jax", "jax", "jax"), tmp_path, unique_name)
    mixed = one_round(new_settings, shared_embedded_url, BACKENDS, tmp_path, unique_name)
    for a, b in zip(alone, mixed, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
