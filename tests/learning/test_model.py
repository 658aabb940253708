import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import custom_layers
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.learning.scoring import BATCH_SIZES

layers = keras.layers


def supervised(*stack, features=6, loss="mse"):
    core = keras.Sequential([keras.Input((features,)), *stack])
    core.compile("adam", loss)
    return FederatedModel.from_core(core, task="supervised")


def test_the_plan_lists_the_scaler_first_and_leaves_seed_generators_out():
    core = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(4)]
    )
    core.layers[0].trainable = False
    core.compile("adam", "mse")
    model = FederatedModel.from_core(core)
    assert [v.role for v in model.variables] == ["scaler"] * 2 + ["frozen"] * 2 + ["trainable"] * 2 + [
        "statistic"
    ] * 2 + ["trainable"] * 2
    assert [v.shape for v in model.variables][:4] == [(4,), (4,), (4, 3), (3,)]
    assert {v.dtype for v in model.variables} == {"float32"}
    assert model.variables[6].path.endswith("moving_mean")
    assert model.parameters == 4 * 2 + 15 + 12 + 16
    assert len(model.get_weights()) == len(model.variables)


def test_a_users_core_is_copied_and_left_alone(readings):
    core = build_core(n_features=6, seed=3)
    before = [np.array(w) for w in core.get_weights()]
    model = FederatedModel.from_core(core, scaler=ScalerValues.standard(readings))
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights()[2:], before, strict=True))
    model.set_weights([w * 0 + 1 for w in model.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(core.get_weights(), before, strict=True))
    assert model.core is not core


def test_weights_are_copies_both_ways(autoencoder):
    given_weights = autoencoder.get_weights()
    kept = [w.copy() for w in given_weights]
    autoencoder.set_weights(given_weights)
    for weight in given_weights:
        weight[:] = 1
    for weight in autoencoder.get_weights():
        weight[:] = 2
    assert all(np.array_equal(a, b) for a, b in zip(autoencoder.get_weights(), kept, strict=True))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda w: w[:-1], "expected 10 arrays. Received: 9"),
        (lambda w: [*w, w[0]], "Received: 11"),
        (lambda w: [*w[:9], w[9][:-1]], r"weights\[9\] \(core/output/bias\): expected float32 \(6,\)"),
        (lambda w: [*w[:2], w[2].T, *w[3:]], r"weights\[2\]"),
        (lambda w: [*w[:9], w[9].astype("float64")], "Received: float64"),
        (lambda w: [*w[:9], w[9].astype("int32")], "Received: int32"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(autoencoder, damage, match):
    before = autoencoder.get_weights()
    with pytest.raises(ModelError, match=match):
        autoencoder.set_weights(damage([w + 1 for w in before]))
    assert all(np.array_equal(a, b) for a, b in zip(autoencoder.get_weights(), before, strict=True))


def test_an_anomaly_score_is_the_mean_squared_error_in_scaled_space(autoencoder, readings):
    scaled = autoencoder.scaler.apply(readings)
    expected = np.mean((autoencoder.core.predict_on_batch(scaled) - scaled) ** 2, axis=1)
    scores, outputs = autoencoder.predict(readings)
    assert scores.shape == (500,)
    assert outputs is None
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-6)
    assert (scores >= 0).all()


def test_a_new_scaler_counts_at_once(autoencoder, readings):
    before = autoencoder.scores(readings)
    weights = autoencoder.get_weights()
    autoencoder.set_weights([weights[0] + 1, *weights[1:]])
    assert not np.allclose(autoencoder.scores(readings), before)


def test_one_output_is_the_score_itself(rng):
    model = supervised(layers.Dense(1, activation="sigmoid"))
    x = rng.normal(size=(7, 6)).astype("float32")
    scores, outputs = model.predict(x)
    assert outputs.shape == (7, 1)
    assert np.array_equal(scores, outputs[:, 0])
    assert np.allclose(scores, model.core.predict_on_batch(x)[:, 0], atol=1e-6)


def test_of_several_classes_the_score_is_the_chance_that_it_is_not_class_zero(rng):
    model = supervised(layers.Dense(3, activation="softmax"), loss="sparse_categorical_crossentropy")
    scores, outputs = model.predict(rng.normal(size=(7, 6)))
    assert outputs.shape == (7, 3)
    assert np.allclose(scores, outputs[:, 1:].sum(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("units", "loss"),
    [
        (1, keras.losses.BinaryCrossentropy(from_logits=True)),
        (3, keras.losses.CategoricalCrossentropy(from_logits=True)),
    ],
)
def test_logits_become_probabilities_in_the_score(units, loss, rng):
    model = supervised(layers.Dense(units), loss=loss)
    scores, outputs = model.predict(rng.normal(size=(50, 6)) * 9)
    assert outputs.min() < 0
    assert 0 <= scores.min() < scores.max() <= 1


def test_a_reading_is_folded_into_the_shape_the_core_wants(rng):
    core = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Conv2D(2, 3, padding="same"), layers.Conv2D(1, 3, padding="same")]
    )
    core.compile("adam", "mse")
    model = FederatedModel.from_core(core)
    x = rng.normal(size=(5, 64)).astype("float32")
    expected = np.mean((core.predict_on_batch(x.reshape(5, 8, 8, 1)).reshape(5, 64) - x) ** 2, axis=1)
    assert model.n_features == 64
    assert np.allclose(model.scores(x), expected, rtol=1e-4)


def traced_model():
    core = keras.Sequential([keras.Input((3,)), custom_layers.Traced(), layers.Dense(3)])
    core.compile("adam", "mse")
    return FederatedModel.from_core(core, custom_modules=["custom_layers"])


def test_any_number_of_readings_runs_in_one_of_a_few_compiled_sizes(rng):
    model = traced_model()
    x = rng.normal(size=(5000, 3)).astype("float32")
    model.warm_up(range(1, 5000, 3))
    custom_layers.traces.clear()
    whole = model.scores(x)
    for size in (1, 2, 3, 5, 16, 17, 100, 257, 4095, 4097):
        assert np.allclose(model.scores(x[:size]), whole[:size], rtol=1e-4, atol=1e-6)
    assert {shape[0] for shape in model._scorer.shapes} == set(BATCH_SIZES)
    if keras.backend.backend() != "torch":  # which runs the layer's Python each time
        assert custom_layers.traces == []


def test_wide_readings_go_in_smaller_batches():
    core = keras.Sequential([keras.Input((2**20,)), layers.Reshape((2**10, 2**10)), layers.Dense(2**10)])
    core.compile("adam", "mse")
    model = FederatedModel.from_core(core)
    assert model._scorer.batch_sizes == (1, 4)


@given(st.integers(1, 10_000))
def test_the_padded_size_is_the_smallest_that_holds_them(rows):
    sizes = [size for size in BATCH_SIZES if size >= rows] or [BATCH_SIZES[-1]]
    assert TRACED._scorer.size_for(rows) == sizes[0]


TRACED = traced_model()


def test_a_broken_reading_spoils_only_its_own_score(autoencoder, readings):
    whole = autoencoder.scores(readings[:20])
    broken = readings[:20].copy()
    broken[3, 2] = np.nan
    broken[5] = np.inf
    scores = autoencoder.scores(broken)
    assert not np.isfinite(scores[[3, 5]]).any()
    others = np.delete(np.arange(20), [3, 5])
    assert np.allclose(scores[others], whole[others])


def test_numbers_beyond_32_bits_score_as_infinite_without_a_warning(autoencoder):
    assert not np.isfinite(autoencoder.scores(np.full((1, 6), 1e300))).any()


def test_no_readings_give_no_scores(autoencoder):
    assert autoencoder.scores(np.zeros((0, 6))).shape == (0,)


@pytest.mark.parametrize("shape", [(6,), (2, 5), (2, 7), (1, 2, 6), ()])
def test_readings_of_another_shape_are_refused(autoencoder, shape):
    with pytest.raises(ModelError, match=r"expected shape \[n, 6\]"):
        autoencoder.scores(np.zeros(shape))


class TestReadyCores:
    def test_the_same_seed_gives_the_same_weights_and_another_seed_others(self):
        one, same, other = (build_core(n_features=5, seed=s).get_weights() for s in (1, 1, 2))
        assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
        assert not np.array_equal(one[0], other[0])

    def test_heads_follow_the_task(self):
        for classes, units, activation in [(2, 1, "sigmoid"), (5, 5, "softmax")]:
            core = build_core(n_features=4, task="supervised", classes=classes)
            assert core.output_shape == (None, units)
            assert core.layers[-1].activation.__name__ == activation
        assert build_core(n_features=4, output_activation="sigmoid").layers[-1].activation.__name__ == "sigmoid"

    def test_settings_that_cannot_be_are_model_errors(self):
        with pytest.raises(ModelError, match="at least 2"):
            build_core(n_features=4, task="supervised", classes=1)
        with pytest.raises(ModelError, match="Keras refuses"):
            build_core(n_features=4, activation="nonsense")
        with pytest.raises(ModelError, match="Keras refuses"):
            build_core(n_features=4, hidden=(0,))
