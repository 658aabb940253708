"""Categorical features: each listed value has an input of its own, on every backend and in every exported form."""

import json

import keras
import numpy as np
import pytest

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.export_file import export_file
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.onnx_graph import make_graph
from dl_mqtt_clients.learning.onnx_model import OnnxModel
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.learning.vocabularies import Categorical
from dl_mqtt_clients.wire.feature_sums import MAX_CODE, UNUSED
from dl_mqtt_clients.wire.messages import Training

TCP, UDP, ICMP = 8703828.0, 9860979.0, -4.0
BY = Categorical((1, 3), size=3)
X = np.array([[10, TCP, 2, 7], [20, UDP, 4, 7], [30, TCP, 6, MAX_CODE], [40, ICMP, 8, 7]], np.float32)
MET = np.concatenate([X, np.array([[10, 5, 2, 8], [20, TCP, 2, 5]], np.float32)])  # with values that nobody listed


def scaler():
    return ScalerValues.standard(X, categorical=BY)


def model(task="anomaly"):
    core = build_core(n_features=BY.width(4), task=task, hidden=(4,))
    return FederatedModel.from_core(core, task=task, features=("a", "protocol", "b", "service"), scaler=scaler())


@pytest.fixture(scope="module")
def autoencoder():
    return model()


def plain(x):
    """Independent of the package: numeric features by mean and deviation, then a 1 for the value's place."""
    numeric = (x[:, [0, 2]] - X[:, [0, 2]].mean(axis=0)) / X[:, [0, 2]].std(axis=0)
    places = [[ICMP, TCP, UDP], [7, MAX_CODE, None]]
    blocks = [
        [[*(float(v == w) for w in listed), float(v not in listed)] for v in x[:, c]]
        for c, listed in zip((1, 3), places, strict=True)
    ]
    return np.concatenate([numeric, *blocks], axis=1)


def test_a_reading_widens_to_its_numbers_and_a_block_for_each_category():
    assert (BY.width(4), BY.features(10), BY.numeric(4)) == (10, 4, [0, 2])
    np.testing.assert_allclose(scaler().apply(MET), plain(MET), rtol=1e-6)


def test_what_is_not_listed_has_the_last_input_of_its_block(autoencoder):
    x = np.array([[10, 5, 2, 8], [10, 5, 2, MAX_CODE]], np.float32)
    assert autoencoder.scaled(x)[:, 2:].tolist() == [[0, 0, 0, 1, 0, 0, 0, 1], [0, 0, 0, 1, 0, 1, 0, 0]]


def test_the_score_is_the_mean_squared_error_of_numbers_and_blocks(autoencoder):
    wide = autoencoder.scaled(MET)
    output = autoencoder.core.predict_on_batch(wide)
    np.testing.assert_allclose(autoencoder.scores(MET), np.square(output - wide).mean(axis=1), rtol=1e-5)


def test_of_too_many_values_the_most_frequent_are_listed():
    x = np.array([[5], [6], [6], [7], [7], [8]], np.float32)
    assert Categorical((0,), size=2).vocabularies(x).tolist() == [[6, 7]]


def test_a_vocabulary_is_a_weight_of_the_scaler_and_is_never_trained(autoencoder):
    assert [v.role for v in autoencoder.variables[:3]] == ["scaler"] * 3
    assert autoencoder.variables[2].shape == (2, 3)
    ours = model()
    before = ours.get_weights()
    after = fit(ours, before, np.tile(X, (20, 1)), None, training=Training(epochs=2, batch_size=8), seed=1).weights
    assert all(np.array_equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    assert not np.array_equal(before[3], after[3])


def test_the_architecture_says_what_is_categorical_and_the_weights_say_which_values(autoencoder):
    again = rebuild(autoencoder.architecture)
    assert (again.categorical, again.n_features) == (BY, 4)
    again.set_weights(autoencoder.get_weights())
    assert np.array_equal(again.scores(MET), autoencoder.scores(MET))
    assert np.array_equal(again.scaler.codes, scaler().codes)


def test_a_model_without_categories_has_the_architecture_it_always_had():
    plain_model = FederatedModel.from_core(build_core(n_features=2, hidden=(2,)))
    assert b"categorical" not in plain_model.architecture
    assert len(plain_model.variables) == 6


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"columns": [3, 1], "size": 3}, "rising columns"),
        ({"columns": [1, 1], "size": 3}, "rising columns"),
        ({"columns": [], "size": 3}, "rising columns"),
        ({"columns": "13", "size": 3}, "rising columns"),
        ({"columns": [1, 3], "size": 0}, "size of 1 to 100000"),
        ({"columns": [1, 3], "size": 10**9}, "size of 1 to 100000"),
        ({"columns": [True, 3], "size": 3}, "rising columns"),
        ([1, 3], "rising columns"),
        ({"columns": [1, 4], "size": 3}, "an input for each numeric feature"),
        ({"columns": [-1, 3], "size": 3}, "an input for each numeric feature"),
        ({"columns": [1, 3], "size": 30}, "an input for each numeric feature"),
        ({"columns": [1, 3], "size": 2}, "expected 6 names"),
    ],
)
def test_a_hostile_architecture_is_refused(autoencoder, given, reason):
    fields = json.loads(autoencoder.architecture) | {"categorical": given}
    with pytest.raises(ModelError, match=reason):
        rebuild(json.dumps(fields).encode())


def test_a_core_of_another_width_is_refused():
    with pytest.raises(
        ModelError, match=r"an input for each numeric feature and 4 for each of 2 categorical ones\. Received: 6"
    ):
        FederatedModel.from_core(
            build_core(n_features=6, hidden=(2,)), features=("a", "protocol", "b", "service"), scaler=scaler()
        )


@pytest.mark.parametrize("task", ["anomaly", "supervised"])
def test_the_file_for_others_takes_codes_and_gives_the_same_scores(task, tmp_path):
    ours = model(task)
    ours.save(tmp_path / "model.keras", threshold=0.5)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(MET, verbose=0)["score"], ours.scores(MET), rtol=1e-5)


def test_the_file_for_others_follows_a_new_vocabulary(tmp_path):
    ours = model()
    ours.save(tmp_path / "model.keras")
    weights = ours.get_weights()
    weights[2] = np.full_like(weights[2], UNUSED)
    ours.set_weights(weights)
    ours.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(MET, verbose=0)["score"], ours.scores(MET), rtol=1e-5)
    assert ours.scaled(X)[:, 5].tolist() == [1.0] * 4


def test_the_onnx_graph_takes_vocabularies_as_weights(autoencoder):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra edge)")
    graph = OnnxModel(make_graph(autoencoder.architecture), task="anomaly", features=())
    graph.take_roles(autoencoder.variables)
    graph.set_weights(autoencoder.get_weights())
    assert graph.n_features == 4
    np.testing.assert_allclose(graph.scores(MET), autoencoder.scores(MET), rtol=1e-5)


def test_an_exported_onnx_file_is_compared_on_listed_values(autoencoder, tmp_path):
    pytest.importorskip("onnx", reason="the package onnx is not installed (extra export)")
    assert export_file(autoencoder, tmp_path / "model.onnx", threshold=0.5, facts={}) < 1e-5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow writes it")
@pytest.mark.parametrize("name", ["saved", "model.tflite"])
def test_tensorflow_s_forms_are_compared_on_listed_values(autoencoder, tmp_path, name):
    assert export_file(autoencoder, tmp_path / name, threshold=0.5, facts={}) < 1e-5


def test_the_readable_copy_lists_the_codes():
    rows = json.loads(scaler().to_json(("a", "protocol", "b", "service")))["features"]
    assert rows[1] == {"name": "protocol", "size": 3, "codes": [-4, 8703828, 9860979]}
    assert rows[3] == {"name": "service", "size": 3, "codes": [7, MAX_CODE]}
    assert rows[0]["name"] == "a"
    assert rows[0]["offset"] == 25.0
