import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.model import FederatedModel

PLAIN_KERAS = """
import json, sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
outputs = model.predict(np.load(sys.argv[2]), verbose=0)
assert not any(name.startswith("dl_mqtt_clients") for name in sys.modules)
json.dump({name: np.asarray(value).tolist() for name, value in outputs.items()}, open(sys.argv[3], "w"))
"""


@pytest.fixture
def in_plain_keras(tmp_path):
    """Load a file in a process that knows nothing of this library, and run it on readings."""

    def run(path, x):
        np.save(tmp_path / "x.npy", x)
        script = [sys.executable, "-c", PLAIN_KERAS, path, tmp_path / "x.npy", tmp_path / "out.json"]
        environment = {**os.environ, "KERAS_BACKEND": keras.backend.backend()}
        subprocess.run(script, check=True, timeout=100, env=environment)
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_plain_keras_loads_the_file_and_scores_raw_readings(autoencoder, readings, tmp_path, in_plain_keras):
    path = tmp_path / "updated_model" / "model.keras"
    scores = autoencoder.scores(readings)
    threshold = float(np.median(scores))
    autoencoder.save(path, threshold=threshold)
    outputs = in_plain_keras(path, readings)
    assert set(outputs) == {"score", "output", "verdict"}
    assert np.allclose(outputs["score"], scores, rtol=1e-4, atol=1e-6)
    assert np.shape(outputs["output"]) == (500, 6)
    assert 0.4 < np.mean(outputs["verdict"]) < 0.6
    assert np.mean(np.array(outputs["verdict"]) == (scores > threshold)) > 0.99


def test_every_version_carries_its_own_weights_scaler_and_threshold(autoencoder, readings, tmp_path):
    path = tmp_path / "model.keras"
    autoencoder.save(path, threshold=1.0)
    autoencoder.set_weights([w + 0.1 for w in autoencoder.get_weights()])
    autoencoder.save(path, threshold=0.0)
    outputs = keras.saving.load_model(path).predict(readings, verbose=0)
    assert np.allclose(outputs["score"], autoencoder.scores(readings), rtol=1e-4, atol=1e-6)
    assert np.asarray(outputs["verdict"]).all()
    autoencoder.save(path)
    assert set(keras.saving.load_model(path).predict(readings, verbose=0)) == {"score", "output"}


def test_a_supervised_model_puts_out_its_classes(rng, tmp_path):
    core = build_core(n_features=6, task="supervised", classes=3)
    model = FederatedModel.from_core(core, task="supervised")
    x = rng.normal(size=(20, 6)).astype("float32")
    model.save(tmp_path / "model.keras")
    outputs = keras.saving.load_model(tmp_path / "model.keras").predict(x, verbose=0)
    scores, probabilities = model.predict(x)
    assert np.allclose(outputs["score"], scores, atol=1e-6)
    assert np.allclose(outputs["output"], probabilities, atol=1e-6)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(autoencoder, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    autoencoder.save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save", full)
    with pytest.raises(StateError, match="No space left"):
        autoencoder.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]


def test_saving_and_scoring_do_not_disturb_each_other(autoencoder, readings, tmp_path):
    before, description = autoencoder.scores(readings), autoencoder.architecture
    for number in range(3):
        autoencoder.save(tmp_path / f"{number}.keras", threshold=number)
    assert np.array_equal(autoencoder.scores(readings), before)
    assert FederatedModel.from_core(autoencoder.core).architecture == description
