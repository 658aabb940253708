"""SCAFFOLD through whole services, against the paper's pseudocode written down plainly."""

import keras
import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.aggregation.controls import control_of_all, summed
from dl_mqtt_clients.errors import ConfigurationError, TransferError
from dl_mqtt_clients.services.fetch import check_sizes
from dl_mqtt_clients.services.offering import Offering
from dl_mqtt_clients.wire.controls import control_positions, with_controls
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import decode, update_positions
from service_helpers import FEATURES, SCALER, readings, start_manager, trainers

ROWS, STEPS, RATE = 64, 3, 0.3
NODES = ("a", "b")
CHANGES = {
    "rounds__target_updates": 2,
    "rounds__min_updates": 2,
    "rounds__strategy": "FedAvg @ UniformMean",
    "training__objective": "SCAFFOLD",
    "training__optimizer": f"SGD(learning_rate={RATE})",
    "training__steps": STEPS,
    "training__batch_size": 640,  # every step sees all: a quadratic, whatever the order
    "readings__holdout": 0.0,
}


def linear():
    """Reconstruction by one matrix: its loss is a quadratic of the weights."""
    layer = keras.layers.Dense(FEATURES, name="output", kernel_initializer=keras.initializers.GlorotUniform(seed=3))
    model = keras.Sequential([keras.Input((FEATURES,), name="scaled"), layer], name="core")
    model.compile(optimizer="sgd", loss="mse")
    return model


def plain(w, data, *, rounds, nodes):
    """Algorithm 1, option II: x, c and c_i of two nodes of `nodes`, all sampled each round; η_g = 1."""
    c, own = np.zeros_like(w), [np.zeros_like(w) for _ in data]
    for _ in range(rounds):
        moves, changes = [], []
        for i, (inputs, wanted) in enumerate(data):
            y = w.copy()
            for _ in range(STEPS):
                gradient = 2 / wanted.size * inputs.T @ (inputs @ y - wanted)
                y = y - RATE * (gradient - own[i] + c)
            new = own[i] - c + (w - y) / (STEPS * RATE)
            moves.append(y - w)
            changes.append(new - own[i])
            own[i] = new
        w = w + np.mean(moves, axis=0)
        c = c + len(data) / nodes * np.mean(changes, axis=0)
    return w, c


def scaled(node):
    x = SCALER.apply(readings(ord(node))).astype(np.float64)
    return np.hstack([x, np.ones((len(x), 1))]), x  # the bias is a row of the matrix


def federate(settings, *, rounds, model):
    with trainers(settings, NODES):
        return start_manager(settings, rounds=rounds, model=model).run()


def matrix(arrays):
    kernel, bias = arrays
    return np.vstack([kernel, bias[None, :]])


@pytest.mark.parametrize(("configured", "nodes"), [((), 2), (("a", "b", "away"), 3)])
def test_it_is_the_papers_algorithm(memory_url, new_settings, configured, nodes):
    settings = new_settings(memory_url, federation__nodes=configured, **CHANGES)
    model = linear()
    start = matrix(model.get_weights()).astype(np.float64)
    manager = federate(settings, rounds=3, model=model)
    expected, control = plain(start, [scaled(node) for node in NODES], rounds=3, nodes=nodes)
    variables, current = manager.versions.variables, manager.versions.current
    got = [manager.versions.weights[p] for p in update_positions(variables)]
    np.testing.assert_allclose(matrix(got), expected, atol=2e-6)
    data = manager._store.blob(current.blobs["controls"].sha256)
    found = decode(data, with_controls(variables), control_positions(variables))
    np.testing.assert_allclose(matrix(found), control, atol=2e-6)
    without, _ = plain(start, [scaled(node) for node in NODES], rounds=1, nodes=nodes)
    assert np.abs(without - expected).max() > 1e-3


@pytest.mark.parametrize("codec", ["float32", "int8", "topk:0.1"])
def test_a_restart_in_between_changes_nothing(memory_url, new_settings, tmp_path, codec):
    model = linear()

    def run(folder, rounds):
        changes = CHANGES | {"transfer__codec": codec, "federation__name": folder}
        settings = new_settings(memory_url, node__state_dir=str(tmp_path / folder)).replace(
            **{name.replace("__", "."): value for name, value in changes.items()}
        )
        return federate(settings, rounds=rounds, model=model).versions.current

    whole = run("whole", 3)
    run("apart", 1)
    again = run("apart", 3)
    assert again.version == whole.version
    assert again.blobs["controls"] == whole.blobs["controls"]


def test_who_missed_its_receipt_keeps_step_with_the_manager(memory_url, new_settings, tmp_path, monkeypatch):
    model = linear()
    settings = new_settings(memory_url, **CHANGES)
    undisturbed = federate(settings, rounds=3, model=model).versions.current
    original, lost = Offering.replied, []

    def lossy(self, reply):
        if reply.kind == "receipt" and self._node == "b" and not lost:
            lost.append(reply.round)
        else:
            original(self, reply)

    monkeypatch.setattr(Offering, "replied", lossy)
    disturbed = settings.replace(**{"node.state_dir": str(tmp_path / "disturbed")})
    current = federate(disturbed, rounds=3, model=model).versions.current
    assert lost == [1]
    assert (current.version, current.blobs["controls"]) == (undisturbed.version, undisturbed.blobs["controls"])


def test_turned_off_no_control_travels_and_turned_on_it_is_still_there(memory_url, new_settings):
    model, settings = linear(), new_settings(memory_url, **CHANGES)
    with_one = federate(settings, rounds=1, model=model)
    assert "controls" in with_one.versions.current.blobs
    off = settings.replace(**{"training.objective": "", "readings.holdout": 0.1})
    last = federate(off, rounds=2, model=model)  # of a round that was begun with it
    assert "controls" in last.versions.current.blobs
    without = federate(off, rounds=3, model=model)
    assert "controls" not in without.versions.current.blobs
    assert without._store.stages.controls == last._store.stages.controls != with_one._store.stages.controls
    again = federate(settings.replace(**{"readings.holdout": 0.1}), rounds=5, model=model)
    assert "controls" in again.versions.current.blobs
    assert "controls" not in again.versions.production.blobs  # only trainers need it


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"training__optimizer": "Adam(learning_rate=0.01)"},
            r"training\.objective: SCAFFOLD expects the optimizer SGD",
        ),
        ({"rounds__mode": "async"}, r"training\.objective: expected rounds\.mode sync"),
    ],
)
def test_what_does_not_go_with_it_is_told_at_the_start(memory_url, new_settings, changes, message):
    with pytest.raises(ConfigurationError, match=message):
        start_manager(new_settings(memory_url, **(CHANGES | changes)), model=linear())


def test_the_size_of_the_control_is_checked(memory_url, new_settings):
    current = federate(new_settings(memory_url, **CHANGES), rounds=1, model=linear()).versions.current
    check_sizes(current, stage="global", max_parameters=1000)
    wrong = msgspec.structs.replace(current.blobs["controls"], bytes=10_000)
    manifest = msgspec.structs.replace(current, blobs=current.blobs | {"controls": wrong})
    with pytest.raises(TransferError, match="controls: expected"):
        check_sizes(manifest, stage="global", max_parameters=1000)


def test_sums_are_the_same_bits_in_any_order():
    rng = np.random.default_rng(0)
    changes = [[rng.normal(size=(5,)).astype(np.float32)] for _ in range(7)]
    one, other = summed(changes, [(5,)], limit=100.0), summed(reversed(changes), [(5,)], limit=100.0)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_allclose(one[0], np.sum(changes, axis=0)[0], rtol=1e-6)
    np.testing.assert_allclose(control_of_all(one, 7)[0], np.mean(changes, axis=0)[0], rtol=1e-6)


def test_only_shared_trainables_have_a_control():
    roles = ("scaler", "trainable", "statistic", "frozen", "personal", "trainable")
    variables = [Variable(role=r, shape=(2,), dtype="float16", path=r) for r in roles]
    assert control_positions(variables) == (6, 7)
    assert update_positions(with_controls(variables)) == (1, 2, 5, 6, 7)
    assert {v.dtype for v in with_controls(variables)[6:]} == {"float32"}
