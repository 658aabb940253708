"""Services, weights and a federated round on the backend that KERAS_BACKEND names; and a federation of all three."""

import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import keras
import numpy as np
import pytest

from dl_mqtt_clients.learning.backend import BACKENDS
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.weights import decode
from service_helpers import feed, make_settings, readings, scores_of, start_manager, trainers

HERE = Path(__file__).parent
ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}
MODULES = {"jax": "jax", "tensorflow": "tensorflow", "torch": "torch"}


def missing(backend):
    return importlib.util.find_spec(MODULES[backend]) is None


def test_a_round_its_weights_and_its_scores_on_this_backend(memory_url, new_settings, watch):
    """What is learnt travels as bits, and is scored by the predictor as the manager's own model scores it."""
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    x = readings(3, 20)
    reports = []
    with trainers(settings) as fleet, Predictor("p", settings=settings) as predictor:
        before = start_manager(settings, rounds=1, on_round=reports.append)
        base = before.versions.weights
        manager = before.run()
        seen.status("p", lambda s: s.number == 1, role="predictor")
        seen.listens("p", "predictor")
        feed(seen.client, "p", x)
        seen.client.wait(lambda: scores_of(seen.client, "score/p"))
        status = seen.status("p", lambda s: s.scored == 20, role="predictor")
    assert status.backend == keras.backend.backend()
    assert {p.node for p in reports[0].participants} == {"a", "b", "c"}
    held = manager.versions.weights
    assert any(not np.array_equal(old, new) for old, new in zip(base, held, strict=True))
    for weights in (fleet[0]._weights, predictor.model.get_weights()):
        assert all(np.array_equal(ours, theirs) for ours, theirs in zip(held, weights, strict=True))
    manifest = manager.versions.current
    stored = decode(manager._store.blob(manifest.blobs["weights"].sha256), manifest.variables)
    assert all(np.array_equal(a, b) for a, b in zip(held, stored, strict=True))
    model = manager.versions._model
    model.set_weights(held)
    np.testing.assert_allclose(scores_of(seen.client, "score/p")[0].scores, model.scores(x), rtol=1e-5)


def test_the_same_federation_twice_ends_with_the_same_bits_on_this_backend(memory_url, new_settings, undisturbed):
    settings = new_settings(memory_url, **ALL)
    with trainers(settings):
        assert start_manager(settings, rounds=3).run().versions.current.version == undisturbed


@pytest.mark.slow
@pytest.mark.skipif(any(map(missing, BACKENDS)), reason="not all of JAX, TensorFlow and PyTorch are installed")
def test_a_federation_of_mixed_backends_agrees_with_one_of_a_single_backend(shared_mosquitto_url, tmp_path):
    """Three trainers, each on another backend and in a process of its own."""
    final = {}
    for name, backends in {"mixed": BACKENDS, "single": ("jax",) * 3}.items():
        settings = make_settings(tmp_path / name, shared_mosquitto_url, **ALL, federation__name=f"backends-{name}")
        with ExitStack() as stack:
            for node, backend in zip("abc", backends, strict=True):
                stack.enter_context(process(settings.replace(**{"learning.backend": backend}), node, backend))
            manager = stack.enter_context(start_manager(settings, rounds=2))
            assert manager.wait(60)
        final[name] = manager.versions.weights
    for mixed, single in zip(final["mixed"], final["single"], strict=True):
        np.testing.assert_allclose(mixed, single, atol=1e-5)


class process:
    """A trainer in a process of its own; ended at the end."""

    def __init__(self, settings, node, backend):
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS_", "JAX_", "XLA_"))}
        clean["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *(p for p in sys.path if p)])
        payload = settings.model_dump_json(exclude_unset=True)
        command = [sys.executable, str(HERE / "service_processes.py"), "trainer", payload, node]
        self.process = subprocess.Popen(command, env=clean, stderr=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors.decode()[-3000:]
