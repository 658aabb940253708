"""Exported files: what is in them, that they are compared with Keras first, and that a wrong one is not kept."""

import importlib.util
import json

import keras
import numpy as np
import pytest

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning import export_file as exporting
from dl_mqtt_clients.learning import onnx_graph
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.export_check import check_same, probe_readings
from dl_mqtt_clients.learning.export_file import export_file
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.onnx_model import OnnxModel
from dl_mqtt_clients.learning.scaling import ScalerValues
from onnx_helpers import dense_graph, onnx

FACTS = {"version": "a" * 64, "number": "3"}
ON_TENSORFLOW = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow writes it")


@pytest.fixture
def by_hand(autoencoder, monkeypatch):
    """Graphs that no converter is needed for."""
    monkeypatch.setattr(exporting, "make_graph", lambda _a, **_l: dense_graph(autoencoder.variables))


def layers_of(kind):
    layers = keras.layers
    return {
        "convolution": (
            (6, 1),
            [
                layers.Conv1D(4, 3, padding="same", activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Flatten(),
                layers.Dense(6),
            ],
        ),
        "recurrent": ((3, 2), [layers.LSTM(4, return_sequences=True), layers.Dense(2)]),
    }[kind]


def model_of(kind, readings):
    scaler = ScalerValues.standard(readings)
    if kind == "classes":
        core = build_core(n_features=6, task="supervised", classes=3, hidden=(8,), seed=1)
        return FederatedModel.from_core(core, task="supervised", scaler=scaler)
    shape, layers = layers_of(kind)
    core = keras.Sequential([keras.Input(shape), *layers])
    core.compile("sgd", "mse")
    model = FederatedModel.from_core(core, scaler=scaler)
    rng = np.random.default_rng(1)  # a fresh BatchNorm changes nothing, and would not be missed
    model.set_weights([w if i < 2 else w + rng.random(w.shape).astype("f4") for i, w in enumerate(model.get_weights())])
    return model


def converted(model, backend, monkeypatch):
    packages = onnx_graph._NEEDED[backend]
    if not all(map(importlib.util.find_spec, packages)):
        pytest.skip(f"not all of {', '.join(packages)} are installed")
    monkeypatch.setattr(onnx_graph, "converter", lambda: backend)
    return onnx_graph.make_graph(model.architecture)


def check(graph, model):
    made = OnnxModel(graph, task=model.task)
    made.take_roles(model.variables)
    made.set_weights(model.get_weights())
    return check_same(model, made.outputs, threshold=None, name="graph")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_converted_graph_computes_what_keras_does_with_any_weights(autoencoder, backend, monkeypatch):
    graph = converted(autoencoder, backend, monkeypatch)
    assert check(graph, autoencoder) < 1e-5
    autoencoder.set_weights([w + np.float32(0.25) for w in autoencoder.get_weights()])
    assert check(graph, autoencoder) < 1e-5
    assert len(graph) < 10_000
    assert b".py" not in graph  # nothing of the machine it was made on


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["classes", "convolution", "recurrent"])
def test_other_layers_are_converted_too(kind, readings, monkeypatch):
    model = model_of(kind, readings)
    assert check(converted(model, "jax", monkeypatch), model) < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_cannot_be_rebuilt_in_the_converters_process_says_why(autoencoder):
    with pytest.raises(ModelError, match=r"the model cannot be converted: .*at most 10 parameters"):
        onnx_graph.make_graph(autoencoder.architecture, max_parameters=10)


def test_without_a_converter_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelError, match=r"expected jax with jax2onnx or torch with onnxscript \(pip install"):
        onnx_graph.converter()


def test_an_onnx_file_gives_scores_verdicts_and_what_is_known_of_the_version(autoencoder, readings, tmp_path, by_hand):
    path = tmp_path / "new" / "model.onnx"
    scores = autoencoder.scores(readings)
    threshold = float(np.median(scores))
    assert export_file(autoencoder, path, threshold=threshold, facts=FACTS) < 1e-5
    made = OnnxModel(path.read_bytes(), task="anomaly")
    outputs = made.outputs(readings)
    np.testing.assert_allclose(outputs["score"], scores, rtol=1e-5, atol=1e-6)
    assert 0.4 < outputs["verdict"].mean() < 0.6
    known = {"task": "anomaly", "features": "[]", "categorical": "[]", "threshold": repr(threshold)}
    assert made.metadata == FACTS | known
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def other_weights(autoencoder):
    return [w + np.float32(1e-3) for w in autoencoder.get_weights()]


@pytest.mark.parametrize("wrong", ["scores", "verdicts", "nan"])
def test_a_file_that_disagrees_with_keras_is_not_kept_and_an_older_one_stays(
    autoencoder, tmp_path, by_hand, monkeypatch, wrong
):
    right = exporting.standalone

    def standalone(graph, weights, **rest):
        if wrong == "verdicts":
            return right(graph, weights, **(rest | {"threshold": 0.0}))
        moved = other_weights(autoencoder)
        moved[-1] = np.full_like(moved[-1], np.nan) if wrong == "nan" else moved[-1]
        return right(graph, moved, **rest)

    monkeypatch.setattr(exporting, "standalone", standalone)
    (tmp_path / "model.onnx").write_bytes(b"older")
    reason = {"scores": "score: expected what Keras computes, to 1e-05", "verdicts": "verdict", "nan": "NaN"}[wrong]
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{reason}"):
        export_file(autoencoder, tmp_path / "model.onnx", threshold=1.0, facts={})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"model.onnx": b"older"}


def test_a_batch_size_that_was_frozen_into_the_file_is_noticed(autoencoder):
    def run(x):
        return {"score": autoencoder.scores(x)[:1]}

    with pytest.raises(ModelError, match=r"score: expected shape \(3,\). Received: \(1,\)"):
        check_same(autoencoder, run, threshold=None, name="file")


def test_a_missing_verdict_is_noticed(autoencoder):
    with pytest.raises(ModelError, match=r"verdict: expected one a reading\. Received: None"):
        check_same(autoencoder, lambda x: {"score": autoencoder.scores(x)}, threshold=1.0, name="file")


def test_the_readings_of_the_comparison_are_finite_whatever_the_scaler():
    tiny = np.finfo(np.float32).tiny
    x = probe_readings(ScalerValues(np.array([0.0, 3e38]), np.array([tiny, 1.0])), rows=64)
    assert x.shape == (64, 2)
    assert np.isfinite(x).all()


def test_an_unknown_ending_and_the_wrong_backend_are_refused(autoencoder, tmp_path):
    with pytest.raises(ModelError, match=r"expected an ending \.onnx or \.tflite, or none\. Received: \.h5"):
        export_file(autoencoder, tmp_path / "model.h5", threshold=None, facts={})
    if keras.backend.backend() != "tensorflow":
        with pytest.raises(ModelError, match="saved_model: expected Keras on tensorflow"):
            export_file(autoencoder, tmp_path / "saved", threshold=None, facts={})
    assert not list(tmp_path.iterdir())


@ON_TENSORFLOW
@pytest.mark.parametrize("name", ["saved", "model.tflite"])
def test_tensorflows_formats_are_the_same_model_and_are_replaced_as_a_whole(autoencoder, tmp_path, name):
    path = tmp_path / name
    for threshold in (1.5, None):
        assert export_file(autoencoder, path, threshold=threshold, facts=FACTS) < 1e-5
        beside = path / "fedlearn.json" if path.is_dir() else tmp_path / "model.tflite.fedlearn.json"
        known = json.loads(beside.read_text())
        assert known["number"] == "3"
        assert known.get("threshold") == (None if threshold is None else "1.5")
    beside = {"model.tflite.fedlearn.json"} if name.endswith("tflite") else set()
    assert {p.name for p in tmp_path.iterdir()} == {name, *beside}


@ON_TENSORFLOW
def test_a_folder_that_is_no_saved_model_is_left_alone(autoencoder, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(ModelError, match="Received: a folder of another kind"):
        export_file(autoencoder, tmp_path / "photos", threshold=None, facts={})
    assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"meow"


def test_the_graph_by_hand_is_what_the_converters_are_compared_with(autoencoder):
    """Or the tests that use it in their place would show nothing."""
    assert check(dense_graph(rebuild(autoencoder.architecture).variables), autoencoder) < 1e-5
    assert onnx.ModelProto.FromString(dense_graph(autoencoder.variables)).opset_import[0].version == onnx_graph.OPSET
