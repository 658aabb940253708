"""Which weights training changes, and that freezing and LoRA survive the way to another node."""

import json

import keras
import numpy as np
import pytest

from custom_layers import Counting
from dl_mqtt_clients.errors import ConfigurationError, ModelError
from dl_mqtt_clients.learning.architecture import describe, rebuild
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.roles import roles_of

layers = keras.layers


def compiled(core, loss="mse"):
    core.compile("adam", loss)
    return core


def stack(*middle, width=4):
    return compiled(keras.Sequential([keras.Input((width,)), *middle, layers.Dense(width, name="last")]))


def roles(core):
    return dict(zip([v.path.partition("/")[2] for v in core.weights], roles_of(core), strict=True))


def trained(core):
    held = {id(v) for v in core.trainable_variables}
    return [id(v) in held for v in core.weights]


def frozen_keys(architecture):
    return json.loads(architecture).get("training")


class TestRoles:
    def test_a_trainable_batch_normalization_has_statistics_and_a_frozen_one_has_none(self):
        moving, frozen = layers.BatchNormalization(name="moving"), layers.BatchNormalization(name="frozen")
        core = stack(moving, frozen)
        frozen.trainable = False
        found = roles(core)
        assert [found[f"moving/{n}"] for n in ("gamma", "moving_mean", "moving_variance")] == [
            "trainable", "statistic", "statistic",
        ]  # fmt: skip
        assert {role for path, role in found.items() if path.startswith("frozen/")} == {"frozen"}

    def test_a_custom_layer_is_judged_by_what_it_does(self):
        found = roles(stack(Counting(name="own")))
        assert (found["own/mean"], found["own/table"], found["own/calls"]) == ("statistic", "frozen", "frozen")
        assert found["last/kernel"] == "trainable"

    def test_watching_changes_nothing(self):
        core = stack(Counting(), layers.BatchNormalization(), layers.Dropout(0.5))
        before = [np.array(keras.ops.convert_to_numpy(v)) for v in core.variables]
        roles_of(core)
        after = [np.array(keras.ops.convert_to_numpy(v)) for v in core.variables]
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))

    def test_a_frozen_model_trains_nothing(self):
        core = stack(layers.BatchNormalization())
        core.trainable = False
        assert set(roles_of(core)) == {"frozen"}

    def test_statistics_inside_models_inside_models_are_seen(self):
        inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(name="bn")])
        assert [role for role in roles_of(stack(inner)) if role == "statistic"] == ["statistic"] * 2

    def test_personal_variables_are_marked_and_a_wrong_pattern_is_a_mistake(self):
        core = build_core(n_features=4, hidden=(3,))
        model = FederatedModel.from_core(core, personal=["*/output/*"])
        assert [v.role for v in model.variables] == ["scaler"] * 2 + ["trainable"] * 2 + ["personal"] * 2
        with pytest.raises(ConfigurationError, match="core/hidden_1/kernel"):
            FederatedModel.from_core(core, personal=["*/outptu/*"])

    def test_a_node_takes_the_roles_of_its_manifest(self):
        model = FederatedModel.from_core(build_core(n_features=4, hidden=(3,)), personal=["*/output/*"])
        node = rebuild(model.architecture)
        assert node.positions("personal") == []
        node.take_roles(model.variables)
        assert node.positions("personal") == model.positions("personal") == [4, 5]
        with pytest.raises(ModelError, match="its list of variables"):
            node.take_roles(model.variables[:-1])


def shared_layer():
    dense = layers.Dense(4, name="shared")
    x = keras.Input((4,))
    core = compiled(keras.Model(x, layers.Dense(4)(dense(dense(x)))))
    dense.trainable = False
    return core


def frozen_weight():
    core = stack(layers.Dense(4, name="first"))
    core.layers[0].kernel.trainable = False
    return core


def frozen_model_inside():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dense(4)])
    core = stack(inner)
    inner.trainable = False
    inner.layers[2].trainable = True
    return core


def lora_with_alpha():
    core = stack(layers.Dense(4))
    core.layers[0].enable_lora(2, lora_alpha=8)
    core.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    return core


def lora_inside_attention():
    x = keras.Input((8,))
    y = layers.Reshape((4, 2))(x)
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    core = compiled(keras.Model(x, layers.Reshape((8,))(attention(y, y))))
    for inner in attention._flatten_layers():
        if isinstance(inner, layers.EinsumDense) and "value" in inner.name:
            inner.enable_lora(1, lora_alpha=3)
            inner.lora_kernel_b.assign(np.ones(inner.lora_kernel_b.shape))
    return core


def lora_on_an_embedding():
    core = keras.Sequential([keras.Input((4,)), layers.Embedding(5, 3), layers.Flatten(), layers.Dense(4)])
    core.layers[0].enable_lora(2, lora_alpha=5)
    core.layers[0].lora_embeddings_b.assign(np.ones((2, 3)))
    return compiled(core)


def thawed_under_lora():
    """Setting `trainable` after LoRA thaws the kernel: unusual, but what the user did."""
    core = lora_with_alpha()
    core.layers[0].trainable = True
    return core


ALL = [
    shared_layer, frozen_weight, frozen_model_inside, lora_with_alpha, lora_inside_attention, lora_on_an_embedding,
    thawed_under_lora,
]  # fmt: skip


@pytest.mark.parametrize("make", ALL)
def test_freezing_and_adapters_survive_the_description(make):
    core = make()
    model = FederatedModel.from_core(core, task="supervised")
    node = rebuild(model.architecture)
    assert trained(node.core) == trained(core)
    assert node.variables == model.variables
    node.set_weights(model.get_weights())
    x = np.random.default_rng(0).integers(0, 5, (3, *core.input_shape[1:])).astype("float32")
    expected = keras.ops.convert_to_numpy(core(x))
    assert np.allclose(keras.ops.convert_to_numpy(node.core(x)), expected, rtol=1e-5, atol=1e-5)
    assert describe(node.core, task="supervised", features=()) == model.architecture


@pytest.mark.parametrize("make", [lora_with_alpha, lora_inside_attention])
def test_adapters_are_merged_in_the_file_for_others(make, tmp_path):
    model = FederatedModel.from_core(make())
    model.save(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(5, model.n_features)).astype("float32")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert np.allclose(keras.ops.convert_to_numpy(again(x)["score"]), model.scores(x), rtol=1e-4)


def test_a_model_without_any_of_it_is_described_as_ever():
    assert frozen_keys(describe(stack(layers.BatchNormalization()), task="anomaly", features=())) is None


GOOD = {"frozen_layers": [2], "frozen_weights": [0], "lora": [[2, 1, 2]]}


@pytest.mark.parametrize(
    ("training", "match"),
    [
        (3, "frozen_layers, frozen_weights, lora"),
        ({}, "frozen_layers, frozen_weights, lora"),
        ({**GOOD, "more": 1}, "frozen_layers, frozen_weights, lora"),
        ({**GOOD, "frozen_layers": 2}, "expected a list"),
        ({**GOOD, "frozen_layers": [99]}, "numbers from 0 to 3"),
        ({**GOOD, "frozen_layers": [-1]}, "numbers from 0 to 3"),
        ({**GOOD, "frozen_weights": [True]}, "numbers from 0"),
        ({**GOOD, "frozen_weights": ["0"]}, "numbers from 0"),
        ({**GOOD, "frozen_weights": [1.5]}, "numbers from 0"),
        ({**GOOD, "lora": {}}, "expected a list"),
        ({**GOOD, "lora": [[2, 1]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[99, 1, 1]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[2, 0, 1]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[2, 1, 0]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[2, 1, "x"]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[2, True, 1]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [["2", 1, 1]]}, "layer, rank, alpha"),
        ({**GOOD, "lora": [[0, 1, 1]]}, "can be adapted"),
        ({**GOOD, "lora": [[2, 1, 1], [2, 3, 1]]}, "expected rank 1"),
        ({**GOOD, "lora": [[2, 10**9, 1]]}, "expected at most 200000000 parameters"),
    ],
)
def test_a_damaged_part_is_refused_with_its_reason(training, match):
    fields = json.loads(describe(stack(layers.Dense(4)), task="anomaly", features=()))
    assert rebuild(json.dumps({**fields, "training": GOOD}).encode())
    with pytest.raises(ModelError, match=match):
        rebuild(json.dumps({**fields, "training": training}).encode())
