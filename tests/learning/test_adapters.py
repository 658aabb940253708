"""A transformer whose backbone is frozen: its adapters and its head are what training moves and what travels."""

import keras
import numpy as np
import pytest

from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.wire.messages import Training
from dl_mqtt_clients.wire.weights import decode, encode, nbytes, update_positions
from transformer import HEAD, RANK, WIDTH, freeze, node_data, transformer


@pytest.fixture
def model():
    keras.utils.set_random_seed(1)
    core = transformer()
    assert freeze(core) == 2 * (1 + 2 * (4 + 2))
    return FederatedModel.from_core(core, task="supervised")


@pytest.fixture
def nodes(rng):
    return node_data(rng)


def cross_entropy(model, x, y):
    p = np.clip(model.scores(x), 1e-6, 1 - 1e-6)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def names(model, *roles):
    return {model.variables[p].path.rpartition("/")[2] for p in model.positions(*roles)}


def test_only_adapters_and_head_have_the_role_of_travellers(model):
    assert names(model, "trainable") == {"lora_kernel_a", "lora_kernel_b", "kernel", "bias"}
    assert len(model.positions("trainable")) == 26 + 2
    assert model.positions("statistic") == []  # of a frozen BatchNormalization nothing moves
    assert len(model.positions("frozen")) == len(model.variables) - 2 - 28


def test_an_update_is_the_adapters_bytes_and_no_more(model):
    positions = update_positions(model.variables)
    travelling = [model.variables[p] for p in positions]
    # A kernel of n × m has an adapter of (n + m) × rank values; attention's are seen as Keras does.
    small = {v.path: int(np.prod(v.shape)) for v in travelling}
    of_dense = RANK * ((4 + WIDTH) + 2 * (3 * WIDTH + 3 * WIDTH))
    of_attention = sum(size for path, size in small.items() if "attention" in path)
    assert sum(small.values()) == of_dense + of_attention + HEAD
    data = encode([model.get_weights()[p] for p in positions], positions)
    assert nbytes(travelling) == 4 * sum(small.values())
    assert nbytes(travelling) < len(data) < nbytes(travelling) + 100 * len(positions)
    assert 5 * len(data) < len(encode(model.get_weights()))


def test_a_federated_round_moves_adapters_and_head_alone_and_it_learns(model, nodes):
    """Manager and nodes as they are: each rebuilds, fits, sends its change as bytes; the mean goes onto the base."""
    manifest, architecture = model.variables, model.architecture
    held = [rebuild(architecture) for _ in nodes]
    for node in held:
        node.take_roles(manifest)
    positions = update_positions(manifest)
    base = version = model.get_weights()
    x, y = (np.concatenate(part) for part in list(zip(*nodes, strict=True))[:2])
    losses = [cross_entropy(model, x, y)]
    for number in range(3):
        changes = []
        for node, (inputs, labels, k) in zip(held, nodes, strict=True):
            training = Training(epochs=2, batch_size=16)
            result = fit(node, version, inputs, labels, training=training, seed=10 * number + k)
            sent = encode([result.weights[p] - version[p] for p in positions], positions)
            changes.append(decode(sent, manifest, positions))
            assert all(np.array_equal(result.weights[p], base[p]) for p in node.positions("frozen", "scaler"))
        version = list(version)
        for p, *change in zip(positions, *changes, strict=True):
            version[p] = version[p] + np.mean(change, axis=0)
        held[0].set_weights(version)
        losses.append(cross_entropy(held[0], x, y))
    assert losses[1] < 0.8 * losses[0]
    assert losses[-1] < 0.4 * losses[0]
    moved = [p for p in range(len(base)) if not np.array_equal(version[p], base[p])]
    assert moved == list(positions)


@pytest.mark.parametrize("objective", ["FedProx(mu=0.1)", "SCAFFOLD"])
def test_objectives_work_on_adapters(model, nodes, objective):
    x, y, _ = nodes[0]
    base = model.get_weights()
    training = Training(epochs=2, batch_size=16, objective=objective, optimizer="SGD(learning_rate=0.05)")
    result = fit(model, base, x, y, training=training, seed=1)
    assert all(np.array_equal(result.weights[p], base[p]) for p in model.positions("frozen"))
    assert any(not np.array_equal(result.weights[p], base[p]) for p in model.positions("trainable"))
    if result.controls:
        assert [c.shape for c in result.controls.own] == [base[p].shape for p in model.positions("trainable")]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="one way only on this backend")
@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_fast_steps_equal_the_generic_ones_with_frozen_weights_kept_apart(model, nodes, batch_size):
    x, y, _ = nodes[0]
    other = rebuild(model.architecture)
    other.make_steps = BatchSteps
    training = Training(batch_size=batch_size, optimizer="SGD(learning_rate=0.05)", objective="FedProx(mu=0.1)")
    base = model.get_weights()
    fast, generic = (fit(m, base, x, y, training=training, seed=1).weights for m in (model, other))
    assert max(np.abs(a - b).max() for a, b in zip(fast, generic, strict=True)) < 1e-6
