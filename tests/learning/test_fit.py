import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import custom_layers
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.graph import multiplications
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.plateau import Patience, Plateau
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.wire.messages import EarlyStopping, ReduceOnPlateau, Training

layers, optimizers = keras.layers, keras.optimizers
TRAINING = Training(epochs=2, batch_size=32)


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def distance(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))


def make(optimizer="adam", *middle, features=6, outputs=None, loss="mse", task="anomaly", custom_modules=()):
    stack = [keras.Input((features,)), layers.Dense(8, activation="tanh"), *middle, layers.Dense(outputs or features)]
    core = keras.Sequential(stack)
    core.compile(optimizer, loss)
    return FederatedModel.from_core(core, task=task, custom_modules=custom_modules)


def test_the_same_arguments_give_the_same_bits_whatever_ran_in_between(autoencoder, readings):
    base = autoencoder.get_weights()
    first = fit(autoencoder, base, readings, None, training=TRAINING, seed=5)
    other = fit(autoencoder, base, readings[:100] * 2, None, training=Training(learning_rate=0.1), seed=6)
    again = fit(autoencoder, base, readings, None, training=TRAINING, seed=5)
    assert equal(first.weights, again.weights)
    assert first.loss == again.loss
    assert not equal(first.weights, other.weights)
    assert not equal(first.weights, fit(autoencoder, base, readings, None, training=TRAINING, seed=6).weights)


def test_a_fit_learns_and_leaves_base_and_scaler_as_they_were(autoencoder, readings):
    base = autoencoder.get_weights()
    kept = [w.copy() for w in base]
    before = autoencoder.scores(readings).mean()
    result = fit(autoencoder, base, readings, None, training=Training(epochs=20), seed=1)
    assert autoencoder.scores(readings).mean() < 0.7 * before
    assert result.loss < before
    assert equal(base, kept)
    assert equal(result.weights[:2], base[:2])
    assert equal(result.weights, autoencoder.get_weights())
    assert (result.examples, result.epochs, result.steps, result.stopped) == (480, 20, 300, False)


def test_a_fit_is_what_plain_keras_computes(autoencoder, readings):
    base = autoencoder.get_weights()
    result = fit(autoencoder, base, readings, None, training=Training(), seed=7)
    core = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(autoencoder.core))
    core.set_weights(base[2:])
    rows = autoencoder.scaler.apply(readings)[-480:][np.random.default_rng(7).permutation(480)]
    history = core.fit(rows, rows, batch_size=32, shuffle=False, verbose=0).history
    assert distance(core.get_weights(), result.weights[2:]) < 1e-6
    assert result.loss == pytest.approx(history["loss"][0], rel=1e-4)


needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="one way only on this backend")


@needs_jax
@pytest.mark.parametrize("batch_size", [4, 32])  # many steps in a call, and few
def test_the_fast_steps_equal_the_generic_ones(readings, batch_size):
    # Not Adam: a bias before BatchNormalization has no gradient but rounding, which Adam scales up.
    model = make(optimizers.SGD(0.1, momentum=0.5), layers.BatchNormalization(), layers.Dropout(0.3))
    base = model.get_weights()
    x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    training = Training(epochs=2, batch_size=batch_size)
    fast = fit(model, base, x, None, training=training, seed=1)
    other = rebuild(model.architecture)
    other.make_steps = BatchSteps
    generic = fit(other, base, x, None, training=training, seed=1)
    assert distance(fast.weights, generic.weights) < 1e-5
    assert fast.loss == pytest.approx(generic.loss, rel=1e-5)
    assert equal(fast.weights, fit(model, base, x, None, training=training, seed=1).weights)


@needs_jax
def test_quick_batches_go_many_to_a_call_and_slow_ones_alone(autoencoder, readings):
    shares = []
    fit(
        autoencoder,
        autoencoder.get_weights(),
        readings,
        None,
        training=Training(batch_size=5),
        seed=1,
        on_batch=lambda share: shares.append(share) or True,
    )
    assert shares == pytest.approx([0.32, 0.64, 0.96, 0.97, 0.98, 0.99, 1])
    assert autoencoder.steps().together(100_000) == 1


def test_work_counts_each_place_where_a_weight_is_used():
    inner = keras.Sequential([keras.Input((4, 4, 1)), layers.Conv2D(2, 3, padding="same", use_bias=False)])
    stack = [keras.Input((16,)), layers.Reshape((4, 4, 1)), inner, layers.Flatten(), layers.Dense(16, use_bias=False)]
    assert multiplications(keras.Sequential(stack)) == 16 * 18 + 32 * 16
    recurrent = keras.Sequential([keras.Input((10, 3)), layers.SimpleRNN(2, use_bias=False)])
    assert multiplications(recurrent) == 10 * (3 * 2 + 2 * 2)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda: optimizers.SGD(0.01, momentum=0.9),
        lambda: optimizers.Adam(0.01, use_ema=True),
        lambda: optimizers.Adagrad(0.1),
        lambda: optimizers.Nadam(0.01),
        lambda: optimizers.RMSprop(optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)),
        lambda: optimizers.ScheduleFreeAdamW(0.01),
    ],
)
def test_every_fit_begins_with_a_fresh_optimizer(make_optimizer, readings):
    """The second fit from another base equals the first fit of a model that never trained before."""
    x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    used = make(make_optimizer())
    base = fit(used, used.get_weights(), x, None, training=TRAINING, seed=1).weights
    second = fit(used, base, x, None, training=TRAINING, seed=2)
    new = make(make_optimizer())
    first = fit(new, base, x, None, training=TRAINING, seed=2)
    assert distance(first.weights, second.weights) < 1e-6
    assert distance(first.weights, base) > 1e-4


def test_a_used_optimizer_is_not_taken_for_a_fresh_one(autoencoder, readings):
    fit(autoencoder, autoencoder.get_weights(), readings, None, training=TRAINING, seed=1)
    with pytest.raises(ModelError, match="has not been used"):
        BatchSteps(autoencoder.core)


def test_statistics_come_along_and_dropout_is_seeded(readings):
    model = make("adam", layers.BatchNormalization(), layers.Dropout(0.5))
    base = model.get_weights()
    x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    one, again, other = (fit(model, base, x, None, training=TRAINING, seed=s).weights for s in (1, 1, 2))
    statistics = [i for i, v in enumerate(model.variables) if v.role == "statistic"]
    assert len(statistics) == 2
    assert all(not np.array_equal(one[i], base[i]) for i in statistics)
    assert equal(one, again)
    assert not equal(one, other)


def test_the_agreed_learning_rate_holds_for_one_fit(readings):
    model = make(optimizers.SGD(0.05))
    base = model.get_weights()
    x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    own = fit(model, base, x, None, training=Training(), seed=1).weights
    tiny = fit(model, base, x, None, training=Training(learning_rate=1e-9), seed=1).weights
    assert distance(tiny, base) < 1e-5
    assert equal(fit(model, base, x, None, training=Training(), seed=1).weights, own)
    same = fit(model, base, x, None, training=Training(learning_rate=0.05), seed=1).weights
    assert equal(same, own)


def test_a_schedule_and_an_agreed_learning_rate_exclude_each_other(readings):
    model = make(optimizers.SGD(optimizers.schedules.ExponentialDecay(0.1, 5, 0.5)))
    for training in (Training(learning_rate=0.1), Training(reduce_on_plateau=ReduceOnPlateau(patience=1))):
        with pytest.raises(ModelError, match="plain learning rate"):
            fit(model, model.get_weights(), readings, None, training=training, seed=1)


class TestWindow:
    def steps(self, autoencoder, x, **training):
        result = fit(autoencoder, autoencoder.get_weights(), x, None, training=Training(**training), seed=1)
        return result.examples, result.steps

    def test_it_is_the_newest_readings_in_whole_batches(self, autoencoder, readings):
        assert self.steps(autoencoder, readings) == (480, 15)
        assert self.steps(autoencoder, readings, window=100) == (96, 3)
        assert self.steps(autoencoder, readings, window=100, batch_size=50, epochs=2) == (100, 4)

    def test_the_oldest_are_left_out(self, autoencoder, readings):
        base = autoencoder.get_weights()
        spoiled = readings.copy()
        spoiled[:20] = 1e9
        one, other = (fit(autoencoder, base, x, None, training=TRAINING, seed=1) for x in (readings, spoiled))
        assert equal(one.weights, other.weights)

    def test_fewer_than_a_batch_are_one_batch(self, autoencoder, readings):
        assert self.steps(autoencoder, readings[:7]) == (7, 1)
        assert self.steps(autoencoder, readings[:32]) == (32, 1)
        assert self.steps(autoencoder, readings, window=7) == (7, 1)

    def test_none_or_broken_ones_are_an_error(self, autoencoder, readings):
        with pytest.raises(ModelError, match="at least 1"):
            self.steps(autoencoder, readings[:0])
        with pytest.raises(ModelError, match="finite"):
            self.steps(autoencoder, readings * np.nan)


class TestStopping:
    def test_it_is_asked_after_every_batch_that_takes_time(self, autoencoder, readings):
        shares = []
        fit(
            autoencoder,
            autoencoder.get_weights(),
            readings,
            None,
            training=TRAINING,
            seed=1,
            on_batch=lambda share: shares.append(share) or True,
        )
        assert shares == pytest.approx([(i + 1) / 30 for i in range(30)])

    def test_it_stops_at_the_next_batch(self, autoencoder, readings):
        base = autoencoder.get_weights()
        asked = iter([True, True, False])
        result = fit(autoencoder, base, readings, None, training=TRAINING, seed=1, on_batch=lambda _share: next(asked))
        assert (result.stopped, result.steps, result.epochs) == (True, 3, 0)
        assert result.loss > 0
        assert equal(result.weights, autoencoder.get_weights())

    def test_an_error_in_the_question_is_the_callers_and_leaves_the_base(self, autoencoder, readings):
        base = autoencoder.get_weights()

        def broken(_share):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(autoencoder, base, readings, None, training=TRAINING, seed=1, on_batch=broken)
        assert equal(autoencoder.get_weights(), base)
        assert fit(autoencoder, base, readings, None, training=TRAINING, seed=1).epochs == 2


def test_the_model_can_be_asked_while_it_trains(autoencoder, readings):
    """JAX gives a step's input buffers away, so the model must keep its own."""
    scores = []
    fit(
        autoencoder,
        autoencoder.get_weights(),
        readings,
        None,
        training=TRAINING,
        seed=1,
        on_batch=lambda _share: scores.append(autoencoder.scores(readings[:4])) or True,
    )
    assert np.isfinite(scores).all()


def test_divergence_is_an_error_that_leaves_the_base(readings):
    model = make(optimizers.SGD(1e20))
    base = model.get_weights()
    with pytest.raises(ModelError, match="diverged"):
        fit(model, base, readings, None, training=TRAINING, seed=1)
    assert equal(model.get_weights(), base)
    assert np.isfinite(model.scores(readings)).all()


class TestSupervised:
    @pytest.fixture
    def x(self, rng):
        return rng.normal(size=(320, 6)).astype("float32")

    def accuracy(self, model, x, y, labels):
        fit(model, model.get_weights(), x, y, training=Training(epochs=20, learning_rate=0.03), seed=1)
        _, outputs = model.predict(x)
        guess = outputs[:, 0] > 0.5 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
        return np.mean(guess == labels)

    def test_two_classes_with_one_output(self, x):
        labels = x[:, 0] > 0
        for y in (labels, labels.astype(int).tolist(), labels[:, None].astype("float64")):
            core = build_core(n_features=6, task="supervised", hidden=(8,))
            assert self.accuracy(FederatedModel.from_core(core, task="supervised"), x, y, labels) > 0.95

    @pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
    def test_several_classes_from_class_numbers(self, x, loss):
        labels = (x[:, 0] > 0) + (x[:, 1] > 0)
        core = build_core(n_features=6, task="supervised", hidden=(8,), classes=3, loss=loss)
        assert self.accuracy(FederatedModel.from_core(core, task="supervised"), x, labels.astype(float), labels) > 0.9

    def test_labels_that_do_not_fit_are_refused(self, x):
        core = build_core(n_features=6, task="supervised", classes=3)
        model = FederatedModel.from_core(core, task="supervised")
        for y, match in [
            (None, "Received: none"),
            (np.zeros(3), "expected 320"),
            (np.full(320, 3), "class numbers 0 to 2"),
            (np.full(320, 0.5), "class numbers 0 to 2"),
            (np.full(320, -1), "class numbers 0 to 2"),
            (np.full(320, "x"), "class numbers 0 to 2"),
            (np.zeros((320, 2)), "labels"),
        ]:
            with pytest.raises(ModelError, match=match):
                fit(model, model.get_weights(), x, y, training=Training(), seed=1)


class TestPlateaus:
    """Our rules decide as Keras's callbacks do, fed with the same losses."""

    losses = st.lists(st.floats(0, 1, width=16), min_size=1, max_size=30)

    @given(losses, st.integers(1, 4), st.sampled_from([0.0, 0.1]))
    def test_early_stopping(self, losses, patience, delta):
        callback = keras.callbacks.EarlyStopping("loss", min_delta=delta, patience=patience, mode="min")
        callback.set_model(model := FakeModel())
        callback.on_train_begin()
        state, settings = Patience(), EarlyStopping(patience=patience, delta=delta)
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"loss": loss})
            state = state.after(loss, settings)
            assert state.is_over(settings) == model.stop_training
            if model.stop_training:
                break

    @given(losses, st.integers(1, 3), st.integers(0, 3), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.02]))
    def test_learning_rate_reduction(self, losses, patience, cooldown, delta, minimum):
        callback = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, patience=patience, mode="min", min_delta=delta, cooldown=cooldown, min_lr=minimum
        )
        callback.set_model(model := FakeModel())
        callback.on_train_begin()
        settings = ReduceOnPlateau(patience=patience, delta=delta, cooldown=cooldown, factor=0.5, minimum=minimum)
        state = Plateau(0.1)
        for epoch, loss in enumerate(losses):
            callback.on_epoch_end(epoch, {"loss": loss})
            state = state.after(loss, settings)
            assert state.learning_rate == pytest.approx(model.optimizer.learning_rate)

    def test_a_fit_that_no_longer_improves_ends_early(self, autoencoder, readings):
        training = Training(epochs=50, early_stopping=EarlyStopping(patience=2, delta=100.0))
        result = fit(autoencoder, autoencoder.get_weights(), readings, None, training=training, seed=1)
        assert result.epochs == 3
        assert not result.stopped

    def test_the_reduced_rate_is_used_and_forgotten_by_the_next_fit(self, readings):
        model = make(optimizers.SGD(0.1))
        base = model.get_weights()
        x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
        reduce = ReduceOnPlateau(patience=1, delta=100.0, factor=1e-9)
        one = fit(model, base, x, None, training=Training(epochs=2), seed=1).weights
        both = Training(epochs=4, reduce_on_plateau=reduce)
        assert distance(fit(model, base, x, None, training=both, seed=1).weights, one) < 1e-5
        assert equal(fit(model, base, x, None, training=Training(epochs=2), seed=1).weights, one)


class FakeModel:
    """What Keras's callbacks touch."""

    def __init__(self):
        self.stop_training = False
        self.optimizer = type("Optimizer", (), {"learning_rate": np.float64(0.1)})()

    def get_weights(self):
        return []


def test_what_is_frozen_comes_back_bit_by_bit_whatever_a_layer_does(readings):
    """A layer of one's own counts its calls; an update never has that count."""
    model = make("adam", custom_layers.Counting(name="own"), custom_modules=["custom_layers"])
    base = model.get_weights()
    result = fit(model, base, readings / 100, None, training=TRAINING, seed=1)
    frozen = model.positions("frozen")
    assert [model.variables[p].path.rpartition("/")[2] for p in frozen] == ["table", "calls"]
    assert all(np.array_equal(result.weights[p], base[p]) for p in frozen)
    assert all(np.array_equal(model.get_weights()[p], base[p]) for p in frozen)
    moving = model.positions("statistic")
    assert len(moving) == 1
    assert not np.array_equal(result.weights[moving[0]], base[moving[0]])
