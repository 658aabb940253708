"""`fedlearn model export`, and `fedlearn predict` on what it wrote."""

import json
from pathlib import Path

import numpy as np
import pytest

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.learning.backend import use_backend

use_backend()

from dl_mqtt_clients.config import Settings  # noqa: E402
from dl_mqtt_clients.learning import export_file  # noqa: E402
from dl_mqtt_clients.learning.files import load_base  # noqa: E402
from dl_mqtt_clients.learning.onnx_model import OnnxModel  # noqa: E402
from dl_mqtt_clients.services.production import Production  # noqa: E402
from dl_mqtt_clients.services.versions import Versions  # noqa: E402
from dl_mqtt_clients.wire.messages import Metrics  # noqa: E402
from onnx_helpers import dense_graph  # noqa: E402

SMALL = ("--set", "data.rows=2000", "--set", "model.hidden=8,4,8")


@pytest.fixture
def base(run, monkeypatch):
    """A base model in artifacts/model; graphs of it are made by hand."""
    assert run("model", "build", *SMALL).code == 0
    model = load_base(Path("artifacts/model"), max_parameters=10**6)
    monkeypatch.setattr(export_file, "make_graph", lambda _a, **_l: dense_graph(model.variables))
    return model


@pytest.fixture
def state(base):
    """A manager's state with versions 0 and, in production with a threshold, 1."""
    store = Store(Path("state/manager"))
    versions = Versions(store, Settings(), model=base, features=(), scaler=None, fresh=False)
    versions._write([w + np.float32(0.1) for w in versions.weights], _next(versions.current))
    Production(store).promote(threshold=2.5, metrics=Metrics())
    return versions


def _next(manifest):
    import msgspec

    return msgspec.structs.replace(manifest, number=1, base=manifest.version)


def weights_in(path):
    import onnx

    held = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    return held["0002"]


def test_a_base_model_becomes_a_file_with_the_threshold_that_is_given(run, base):
    result = run("model", "export", "artifacts/model", "out/model.onnx", "--threshold", "1.5", "--json")
    assert result.code == 0, result.err
    said = result.json
    assert (said["format"], said["threshold"], said["number"]) == ("onnx", 1.5, None)
    assert said["bytes"] == Path("out/model.onnx").stat().st_size
    assert said["difference"] < 1e-5
    made = OnnxModel(Path("out/model.onnx").read_bytes(), task="anomaly")
    x = np.ones((3, base.n_features), np.float32)
    np.testing.assert_allclose(made.scores(x), base.scores(x), rtol=1e-5)
    assert json.loads(made.metadata["features"]) == list(base.features)


def test_a_managers_production_version_is_exported_or_the_one_that_is_named(run, state):
    result = run("model", "export", "state", "model.onnx")
    assert result.code == 0, result.err
    production = state.production
    for text in (f"1 ({production.version[:12]})", "2.5", "model.onnx (onnx,"):
        assert text in result.out, text
    metadata = OnnxModel(Path("model.onnx").read_bytes(), task="anomaly").metadata
    assert (metadata["version"], metadata["number"], metadata["threshold"]) == (production.version, "1", "2.5")
    first = weights_in("model.onnx")
    versions = Store(Path("state/manager")).versions()
    for name in ("0", versions[0].version[:8]):
        result = run("model", "export", "state/manager", "model.onnx", "--version", name, "--json")
        assert (result.json["number"], result.json["threshold"]) == (0, None)
    assert np.allclose(weights_in("model.onnx") + 0.1, first)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("state", "model.h5"), "expected an ending .onnx or .tflite, or none. Received: .h5"),
        (("nowhere", "model.onnx"), "nowhere: expected the state folder of a manager or predictor, or a base model"),
        (("state", "model.onnx", "--version", "9"), "expected the number of a kept version"),
        (("artifacts/model", "model.onnx", "--version", "1"), "expected a manager's state folder"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(run, state, words, reason):
    result = run("model", "export", *words)
    assert (result.code, result.out) == (1, "")
    assert reason in result.err
    assert result.err.count("\n") == 1
    assert not Path(words[1]).exists()
