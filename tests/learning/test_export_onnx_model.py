"""A graph in ONNX Runtime scores as the Keras model of the same weights does."""

import sys

import numpy as np
import pytest

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.onnx_file import standalone
from dl_mqtt_clients.learning.onnx_model import MOST_ROWS, OnnxModel
from onnx_helpers import dense_graph, helper, model_of, node, onnx

FLOAT = onnx.TensorProto.FLOAT


@pytest.fixture
def graph(autoencoder):
    return dense_graph(autoencoder.variables)


@pytest.fixture
def model(autoencoder, graph):
    made = OnnxModel(graph, task="anomaly", features=list("abcdef"))
    made.take_roles(autoencoder.variables)
    made.set_weights(autoencoder.get_weights())
    return made


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5 * float(np.median(wanted)))


def test_scores_are_those_of_keras_for_any_number_of_readings(autoencoder, model, readings):
    assert (model.n_features, model.features) == (6, ("a", "b", "c", "d", "e", "f"))
    for rows in (0, 1, 3, 500):
        found, outputs = model.predict(readings[:rows])
        assert (found.shape, found.dtype, outputs) == ((rows,), np.float32, None)
        if rows:
            close(found, autoencoder.scores(readings[:rows]))
    many = np.tile(readings, (9, 1))
    assert len(many) > MOST_ROWS
    close(model.scores(many), np.tile(autoencoder.scores(readings), 9))


def test_a_new_version_needs_only_its_weights(autoencoder, model, readings):
    before = model.scores(readings)
    weights = [w if i < 2 else w + np.float32(0.1) for i, w in enumerate(autoencoder.get_weights())]
    autoencoder.set_weights(weights)
    model.set_weights(weights)
    weights[3][:] = 99.0  # they were copied
    close(model.scores(readings), autoencoder.scores(readings))
    assert not np.allclose(model.scores(readings), before)
    held = zip(model.get_weights(), autoencoder.get_weights(), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in held)


def test_what_does_not_fit_is_refused_and_nothing_changes(autoencoder, model, readings):
    before = model.scores(readings)
    weights = autoencoder.get_weights()
    with pytest.raises(ModelError, match=r"expected float32 \(6, 8\) for 0002. Received: float64"):
        model.set_weights([w.astype("float64") if i == 2 else w for i, w in enumerate(weights)])
    with pytest.raises(ModelError, match="Received: nothing"):
        model.set_weights(weights[:-1])
    with pytest.raises(ModelError, match=r"expected shape \[n, 6\]"):
        model.scores(readings[:, :5])
    with pytest.raises(ModelError, match="its list of variables is not that of its ONNX graph: 0009"):
        model.take_roles(autoencoder.variables[:-1])
    assert np.array_equal(model.scores(readings), before)


def test_other_inputs_and_outputs_are_refused(graph):
    with pytest.raises(ModelError, match=r"expected outputs score, output\. Missing: output"):
        OnnxModel(graph, task="supervised")
    value = helper.make_tensor_value_info("x", FLOAT, ["batch", 6])
    result = helper.make_tensor_value_info("score", FLOAT, ["batch", 6])
    other = helper.make_graph([node("Relu", ["x"], "score")], "g", [value], [result])
    with pytest.raises(ModelError, match="expected an input reading"):
        OnnxModel(model_of(other), task="anomaly")
    value.name = other.node[0].input[0] = "reading"
    wide = helper.make_graph([other.node[0]], "g", [value], [result])
    with pytest.raises(ModelError, match="expected score of shape"):
        OnnxModel(model_of(wide), task="anomaly").scores(np.zeros((2, 6)))


def test_what_onnx_runtime_refuses_is_our_error(graph):
    unknown = onnx.ModelProto.FromString(graph)
    unknown.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(ModelError, match="onnx: cannot be loaded"):
        OnnxModel(unknown.SerializeToString(), task="anomaly")
    with pytest.raises(ModelError, match="onnx: cannot be computed"):
        OnnxModel(graph, task="anomaly").scores(np.zeros((1, 6)))  # no weights yet


def test_without_onnx_runtime_it_says_what_to_install(graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelError, match=r"pip install 'dl-mqtt-clients\[edge\]'"):
        OnnxModel(graph, task="anomaly")


def test_a_file_stands_alone_with_its_threshold_inside(autoencoder, graph, readings):
    scores = autoencoder.scores(readings)
    threshold = float(np.median(scores))
    data = standalone(graph, autoencoder.get_weights(), threshold=threshold, facts={"number": "7"})
    alone = OnnxModel(data, task="anomaly")
    outputs = alone.outputs(readings)
    close(outputs["score"], scores)
    assert np.array_equal(outputs["verdict"], outputs["score"] > np.float32(threshold))
    assert alone.metadata == {"number": "7", "threshold": repr(threshold)}
    held = {i.name: i for i in onnx.ModelProto.FromString(data).graph.initializer}
    assert onnx.numpy_helper.to_array(held["threshold"]) == np.float32(threshold)
    without = OnnxModel(standalone(graph, autoencoder.get_weights(), threshold=None, facts={}), task="anomaly")
    assert set(without.outputs(readings)) == {"score"}
