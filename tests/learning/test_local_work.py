"""How much local work a fit does, and with which optimizer, as announced."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.architecture import describe
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.optimizers import NAMES, make_optimizer
from dl_mqtt_clients.learning.text_forms import parse_call, write_call
from dl_mqtt_clients.wire.messages import EarlyStopping, Training

optimizers = keras.optimizers


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def distance(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))


class TestSteps:
    """480 of 500 readings are 15 batches of 32; 500 are 100 batches of 5, which JAX takes 32 at a time."""

    def of(self, model, readings, *, max_steps=None, on_batch=lambda _share: True, **training):
        return fit(
            model, model.get_weights(), readings, None, training=Training(**training), seed=2, max_steps=max_steps,
            on_batch=on_batch,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("asked", "steps", "epochs", "examples"),
        [
            ({"steps": 1}, 1, 0, 32),
            ({"steps": 15}, 15, 1, 480),
            ({"steps": 20}, 20, 1, 480),
            ({"steps": 30, "epochs": 9}, 30, 2, 480),
            ({"steps": 40, "batch_size": 5}, 40, 0, 200),
            ({"steps": 140, "batch_size": 5}, 140, 1, 500),
            ({"epochs": 2}, 30, 2, 480),
            ({"epochs": 2, "max_steps": 100}, 30, 2, 480),
            ({"epochs": 2, "max_steps": 7}, 7, 0, 224),
            ({"steps": 20, "max_steps": 16}, 16, 1, 480),
            ({"epochs": 1, "batch_size": 5, "max_steps": 33}, 33, 0, 165),
        ],
    )
    def test_the_smaller_of_agreed_and_own_is_done(self, autoencoder, readings, asked, steps, epochs, examples):
        shares = []
        result = self.of(autoencoder, readings, on_batch=lambda share: shares.append(share) or True, **asked)
        assert (result.steps, result.epochs, result.examples) == (steps, epochs, examples)
        assert not result.stopped
        assert shares[-1] == 1
        assert np.isfinite(result.loss)

    def test_steps_go_round_the_window_as_epochs_do(self, autoencoder, readings):
        base = autoencoder.get_weights()
        for steps, epochs in ((15, 1), (30, 2)):
            one = fit(autoencoder, base, readings, None, training=Training(steps=steps), seed=1)
            other = fit(autoencoder, base, readings, None, training=Training(epochs=epochs), seed=1)
            assert equal(one.weights, other.weights)
            assert one.loss == other.loss

    def test_cut_work_is_the_beginning_of_the_whole(self, autoencoder, readings):
        base = autoencoder.get_weights()
        cut = fit(autoencoder, base, readings, None, training=Training(epochs=5), seed=1, max_steps=18)
        agreed = fit(autoencoder, base, readings, None, training=Training(steps=18), seed=1)
        assert equal(cut.weights, agreed.weights)
        assert not equal(cut.weights, base)

    def test_patience_counts_passes_over_the_window(self, autoencoder, readings):
        stopping = EarlyStopping(patience=2, delta=100.0)
        assert self.of(autoencoder, readings, steps=500, early_stopping=stopping).steps == 45

    def test_a_limit_below_one_is_refused(self, autoencoder, readings):
        with pytest.raises(ModelError, match=r"max_steps: expected at least 1\. Received: 0"):
            self.of(autoencoder, readings, max_steps=0)

    @given(st.integers(1, 60), st.integers(1, 60))
    def test_never_more_than_either_says(self, steps, limit):
        model, x = SMALL
        result = fit(
            model, model.get_weights(), x, None, training=Training(steps=steps, batch_size=4), seed=1, max_steps=limit
        )
        assert result.steps == min(steps, limit)
        assert result.examples == min(len(x), 4 * result.steps)


def small():
    core = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    core.compile(optimizers.SGD(0.01), "mse")
    return FederatedModel.from_core(core), np.random.default_rng(0).normal(size=(40, 2))


SMALL = small()


class TestAnnouncedOptimizer:
    def test_it_is_what_the_model_would_do_with_it(self, readings):
        x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
        for text, made in [
            ("SGD(learning_rate=0.05, momentum=0.9)", optimizers.SGD(0.05, momentum=0.9)),
            ("AdamW(learning_rate=0.01, weight_decay=0.1, clipnorm=0.5)", optimizers.AdamW(0.01, 0.1, clipnorm=0.5)),
        ]:
            model = FederatedModel.from_core(build_core(n_features=6, hidden=(4,)))
            core = build_core(n_features=6, hidden=(4,))
            core.compile(made, "mse")
            other = FederatedModel.from_core(core)
            base = model.get_weights()
            announced = fit(model, base, x, None, training=Training(optimizer=text), seed=1)
            own = fit(other, base, x, None, training=Training(), seed=1)
            assert distance(announced.weights, own.weights) < 1e-6

    def test_the_models_own_comes_back_as_it_was(self, readings):
        core = build_core(n_features=6, hidden=(4,))
        core.compile(optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)), "mse")
        model = FederatedModel.from_core(core)
        base, x = model.get_weights(), (readings - readings.mean(axis=0)) / readings.std(axis=0)
        own = fit(model, base, x, None, training=Training(), seed=1).weights
        other = fit(model, base, x, None, training=Training(optimizer="SGD"), seed=1).weights
        assert equal(fit(model, base, x, None, training=Training(), seed=1).weights, own)
        assert not equal(other, own)

    def test_the_agreed_learning_rate_goes_before(self, readings):
        model = FederatedModel.from_core(build_core(n_features=6, hidden=(4,)))
        base, x = model.get_weights(), readings / 100
        one = fit(model, base, x, None, training=Training(optimizer="SGD(learning_rate=0.02)"), seed=1)
        training = Training(optimizer="SGD(learning_rate=5)", learning_rate=0.02)
        assert equal(fit(model, base, x, None, training=training, seed=1).weights, one.weights)

    def test_the_models_description_stays_what_it_was(self, autoencoder, readings):
        before = autoencoder.architecture
        training = Training(optimizer="Lion", objective="FedProx(mu=1)")
        fit(autoencoder, autoencoder.get_weights(), readings, None, training=training, seed=1)
        assert autoencoder.architecture == before
        fit(autoencoder, autoencoder.get_weights(), readings, None, training=Training(), seed=1)
        assert describe(autoencoder.core, task="anomaly", features=()) == before

    @pytest.mark.parametrize("name", NAMES)
    def test_every_name_on_the_list_trains(self, name, readings):
        model = FederatedModel.from_core(build_core(n_features=6, hidden=(4,)))
        base, x = model.get_weights(), (readings - readings.mean(axis=0)) / readings.std(axis=0)
        training = Training(optimizer=f"{name}(learning_rate=0.01)", steps=5)
        assert distance(fit(model, base, x, None, training=training, seed=1).weights, base) > 1e-5

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("Muon", "expected one of SGD, Adam"),
            ("LossScaleOptimizer", "expected one of"),
            ("Optimizer", "expected one of"),
            ("deserialize", "expected one of"),
            ("sgd", "expected one of"),
            ("SGD(0.1)", "name=number"),
            ("SGD(speed=1)", r"expected SGD\(learning_rate, momentum"),
            ("SGD(name=1)", r"expected SGD\(learning_rate"),
            ("SGD(kwargs=1)", r"expected SGD\(learning_rate"),
            ("SGD(learning_rate='x')", "finite number"),
            ("SGD(learning_rate=nan)", "finite number"),
            ("SGD(learning_rate=1e999)", "finite number"),
            ("SGD(momentum=2)", "Keras refuses"),
            ("SGD(momentum=true)", "Keras refuses"),
            ("SGD(gradient_accumulation_steps=1)", "Keras refuses"),
            ("SGD(clipnorm=1, clipvalue=1)", "Keras refuses"),
            ("SGD; import os", "a name with numbers"),
        ],
    )
    def test_anything_else_is_refused_before_it_trains(self, autoencoder, readings, text, match):
        base = autoencoder.get_weights()
        with pytest.raises(ModelError, match=match):
            fit(autoencoder, base, readings, None, training=Training(optimizer=text), seed=1)
        assert fit(autoencoder, base, readings, None, training=Training(), seed=1).steps == 15

    def test_whole_numbers_serve_as_real_ones(self):
        made = make_optimizer("SGD(learning_rate=1, momentum=0, nesterov=True)", {})
        assert (float(made.learning_rate), made.momentum, made.nesterov) == (1.0, 0.0, True)


names = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True)
numbers = st.booleans() | st.integers(-(10**14), 10**14) | st.floats(allow_nan=False, allow_infinity=False)


@given(names, st.dictionaries(names, numbers, max_size=5))
def test_text_forms_read_back_exactly(name, values):
    read, again = parse_call(write_call(name, values), place="here")
    assert (read, again) == (name, values)
    assert [type(v) for v in again.values()] == [type(v) for v in values.values()]


@given(st.text(max_size=80))
def test_any_text_is_read_or_a_model_error(text):
    try:
        name, values = parse_call(text, place="here")
    except ModelError:
        return
    assert parse_call(write_call(name, values), place="here") == (name, values)
