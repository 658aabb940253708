"""Local objectives against plain renderings of the papers' pseudocode, on linear models with SGD."""

import itertools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import custom_layers
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.controls import sum_of_rates
from dl_mqtt_clients.learning.fit import fit
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.learning.objectives import FedProx, Plain, Scaffold, parse_objective
from dl_mqtt_clients.learning.steps import BatchSteps
from dl_mqtt_clients.wire.messages import ReduceOnPlateau, Training

layers, optimizers = keras.layers, keras.optimizers
needs_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="one way only on this backend")


def distance(one, other):
    return max(float(np.abs(np.asarray(a, "float64") - b).max()) for a, b in zip(one, other, strict=True))


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def linear(optimizer=None, features=3):
    core = keras.Sequential([keras.Input((features,)), layers.Dense(1)])
    core.compile(optimizer or optimizers.SGD(0.05), "mse")
    return FederatedModel.from_core(core, task="supervised")


def autoencoder(optimizer, *middle):
    core = keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="tanh"), *middle, layers.Dense(6)])
    core.compile(optimizer, "mse")
    return FederatedModel.from_core(core)


@pytest.fixture
def nodes(rng):
    """Three nodes whose readings differ in spread, and whose truths differ."""
    data = []
    for k in range(3):
        x = rng.normal(size=(40, 3)) * [1, 0.5 + k, 1.5 - k / 2]
        y = x @ rng.normal(size=3) * (k + 1) + k
        data.append((x.astype("float32"), y.astype("float32")))
    return data


# ---- the papers in plain NumPy, in 64 bits; weights are one vector: kernel, then bias ----


def gradient(w, x, y):
    """Of the mean squared error of x w + b."""
    error = x @ w[:-1] + w[-1] - y
    return 2 * np.append(x.T @ error, error.sum()) / len(x)


def batches(x, y, seed, batch_size, epochs):
    order = np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in order.permutation(len(x)).reshape(-1, batch_size):
            yield x[rows].astype("float64"), y[rows].astype("float64")


def fedprox_by_the_paper(w_t, x, y, *, mu, eta, seed, batch_size, epochs):
    """Li et al. 2020, Algorithm 2, line 4: minimise h_k(w; w^t) = F_k(w) + mu/2 ‖w - w^t‖² by SGD."""
    w = w_t.copy()
    for xb, yb in batches(x, y, seed, batch_size, epochs):
        w = w - eta * (gradient(w, xb, yb) + mu * (w - w_t))
    return w


def scaffold_by_the_paper(x_server, c, c_i, x, y, *, eta, seed, batch_size, epochs):
    """Karimireddy et al. 2020, Algorithm 1, lines 7 to 13: y_i, c_i⁺ by option II, Δc_i."""
    y_i, steps = x_server.copy(), 0
    for xb, yb in batches(x, y, seed, batch_size, epochs):
        y_i = y_i - eta * (gradient(y_i, xb, yb) - c_i + c)
        steps += 1
    c_plus = c_i - c + (x_server - y_i) / (steps * eta)
    return y_i, c_plus, c_plus - c_i


def vector(arrays):
    return np.concatenate([np.asarray(a, "float64").ravel() for a in arrays])


def arrays_of(w):
    return [w[:-1].reshape(-1, 1).astype("float32"), w[-1:].astype("float32")]


def with_weights(base, w):
    return [*base[:2], *arrays_of(w)]


SAME = {"eta": 0.05, "seed": 4, "batch_size": 8, "epochs": 3}


class TestPapers:
    TRAINING = Training(epochs=3, batch_size=8, learning_rate=0.05)

    @pytest.mark.parametrize("mu", [0, 0.1, 5.0])
    def test_fedprox(self, nodes, mu):
        model = linear()
        base = model.get_weights()
        for x, y in nodes:
            result = fit(model, base, x, y, training=self.TRAINING, seed=4, objective=FedProx(mu))
            expected = fedprox_by_the_paper(vector(base[2:]), x, y, mu=mu, **SAME)
            assert np.abs(vector(result.weights[2:]) - expected).max() < 2e-6
            assert result.controls is None

    def test_scaffold_over_rounds(self, nodes):
        model = linear()
        base, w = model.get_weights(), vector(model.get_weights()[2:])
        c, controls, plain_c, plain = np.zeros(4), [None] * 3, np.zeros(4), [np.zeros(4)] * 3
        for _ in range(4):
            ours, theirs, changes, plain_changes = [], [], [], []
            for i, (x, y) in enumerate(nodes):
                own = arrays_of(np.zeros(4)) if controls[i] is None else controls[i]
                result = fit(
                    model, with_weights(base, w), x, y, training=self.TRAINING, seed=4, objective=Scaffold(),
                    controls=(arrays_of(c), own),
                )  # fmt: skip
                controls[i] = result.controls.own
                ours.append(vector(result.weights[2:]))
                changes.append(vector(result.controls.change))
                y_i, plain[i], change = scaffold_by_the_paper(w, plain_c, plain[i], x, y, **SAME)
                theirs.append(y_i)
                plain_changes.append(change)
                assert np.abs(ours[-1] - y_i).max() < 1e-5
                assert np.abs(changes[-1] - change).max() < 1e-4
                assert np.abs(vector(controls[i]) - plain[i]).max() < 1e-4
            w = np.mean(theirs, axis=0)  # line 16 and 17 with all nodes, η_g = 1
            c, plain_c = c + np.mean(changes, axis=0), plain_c + np.mean(plain_changes, axis=0)

    def test_the_first_round_begins_with_zeros(self, nodes):
        model, (x, y) = linear(), nodes[0]
        base = model.get_weights()
        zeros = arrays_of(np.zeros(4))
        plain = fit(model, base, x, y, training=self.TRAINING, seed=1)
        none = fit(model, base, x, y, training=self.TRAINING, seed=1, objective=Scaffold())
        given = fit(model, base, x, y, training=self.TRAINING, seed=1, objective=Scaffold(), controls=(zeros, zeros))
        assert equal(none.weights, given.weights)
        assert distance(none.weights, plain.weights) < 1e-6
        assert equal(none.controls.own, none.controls.change)
        assert [(a.dtype, a.shape) for a in none.controls.own] == [("float32", (3, 1)), ("float32", (1,))]


def test_fedprox_with_a_large_mu_stays_at_the_base(nodes):
    model, (x, y) = linear(), nodes[1]
    base = model.get_weights()
    moved = []
    for mu in (0, 1, 10, 100, 1e4, 1e6):
        training = Training(epochs=5, batch_size=8, learning_rate=min(0.02, 0.5 / max(mu, 1e-9)))
        weights = fit(model, base, x, y, training=training, seed=1, objective=FedProx(mu)).weights
        moved.append(distance(weights, base))
    assert all(after < before for before, after in itertools.pairwise(moved))
    assert moved[-1] < 1e-4 * moved[0]


def rounds(model, data, *, scaffold, number=60):
    """Federated rounds with all nodes; the server's weights."""
    weights, count = model.get_weights(), len(data)
    c = [np.zeros_like(w) for w in weights[2:]]
    own = [c] * count
    training = Training(steps=10, batch_size=len(data[0][0]), learning_rate=0.05)
    for _ in range(number):
        results = [
            fit(
                model, weights, x, y, training=training, seed=0, objective=Scaffold() if scaffold else Plain(),
                controls=(c, own[i]) if scaffold else None,
            )
            for i, (x, y) in enumerate(data)
        ]  # fmt: skip
        weights = [np.mean(w, axis=0).astype("float32") for w in zip(*(r.weights for r in results), strict=True)]
        if scaffold:
            own = [r.controls.own for r in results]
            c = [a + np.mean(d, axis=0) for a, *d in zip(c, *(r.controls.change for r in results), strict=True)]
    return vector(weights[2:])


def test_scaffold_reaches_the_optimum_of_heterogeneous_quadratics_where_fedavg_does_not(nodes):
    x, y = (np.concatenate(part).astype("float64") for part in zip(*nodes, strict=True))
    optimum = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
    fedavg = np.abs(rounds(linear(), nodes, scaffold=False) - optimum).max()
    scaffold = np.abs(rounds(linear(), nodes, scaffold=True) - optimum).max()
    assert scaffold < 1e-3
    assert fedavg > 0.1


class TestRates:
    @given(
        st.lists(st.floats(0.01, 1), min_size=1, max_size=12),
        st.sampled_from([0.0, 0.5, 0.9]),
        st.booleans(),
    )
    def test_their_sum_is_how_far_a_constant_gradient_goes(self, rates, momentum, nesterov):
        """By Keras's own rule: m ← m·momentum - η g; w ← w + m, or Nesterov's w + momentum·m - η g."""
        w = m = 0.0
        for eta in rates:
            m = momentum * m - eta
            w += momentum * m - eta if nesterov else m
        assert sum_of_rates(rates, momentum, nesterov=nesterov) == pytest.approx(-w)

    @given(st.integers(1, 100), st.floats(0.001, 1))
    def test_plain_sgd_gives_steps_times_rate(self, steps, eta):
        assert sum_of_rates([eta] * steps, 0.0) == pytest.approx(steps * eta)

    @pytest.mark.parametrize(
        "optimizer", [lambda: optimizers.SGD(0.01, momentum=0.8), lambda: optimizers.SGD(0.01, 0.8, nesterov=True)]
    )
    def test_a_new_control_is_the_gradient_also_with_momentum_and_a_falling_rate(self, optimizer, rng):
        """The loss -w·y (one constant gradient) has no curvature, so all ways must agree exactly."""
        core = keras.Sequential([keras.Input((3,)), layers.Dense(1, use_bias=False)])
        core.compile(optimizer(), custom_layers.towards)
        model = FederatedModel.from_core(core, task="supervised", custom_modules=["custom_layers"])
        x, y = np.tile(rng.normal(size=3), (16, 1)).astype("float32"), np.full(16, 2.0, "float32")
        training = Training(
            epochs=4, batch_size=4, reduce_on_plateau=ReduceOnPlateau(patience=1, delta=1e9, factor=0.5)
        )
        result = fit(model, model.get_weights(), x, y, training=training, seed=1, objective=Scaffold())
        assert np.allclose(result.controls.own[0][:, 0], -2 * x[0], rtol=1e-4)


@needs_jax
@pytest.mark.parametrize("batch_size", [4, 32])  # many steps in a call, and few
@pytest.mark.parametrize("objective", [FedProx(0.5), Scaffold()])
def test_the_fast_steps_equal_the_generic_ones(readings, rng, objective, batch_size):
    model = autoencoder(optimizers.SGD(0.05, momentum=0.5), layers.LayerNormalization(), layers.Dropout(0.3))
    base = model.get_weights()
    x = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    shapes = [model.variables[p].shape for p in model.positions("trainable")]
    controls = tuple([rng.normal(size=s).astype("float32") * 0.1 for s in shapes] for _ in range(2))
    given_controls = controls if objective == Scaffold() else None
    other = rebuild(model.architecture)
    other.make_steps = BatchSteps
    fast, generic = (
        fit(
            m, base, x, None, training=Training(epochs=2, batch_size=batch_size), seed=1, objective=objective,
            controls=given_controls,
        )
        for m in (model, other)
    )  # fmt: skip
    assert distance(fast.weights, generic.weights) < 1e-6
    assert fast.loss == pytest.approx(generic.loss, rel=1e-5)
    if fast.controls:
        assert distance(fast.controls.own, generic.controls.own) < 1e-5


@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_same_arguments_give_the_same_bits_whatever_objective_ran_in_between(readings, batch_size):
    model = autoencoder("adam")
    base = model.get_weights()
    training = Training(batch_size=batch_size)

    def once(objective, readings=readings):
        return fit(model, base, readings / 10, None, training=training, seed=3, objective=objective).weights

    plain, pulled = once(Plain()), once(FedProx(1.0))
    once(FedProx(0.3), readings * 2)
    assert equal(once(FedProx(1.0)), pulled)
    assert equal(once(Plain()), plain)
    assert distance(plain, pulled) > 1e-5
    assert distance(once(FedProx(0.0)), plain) < 1e-6


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.LossScaleOptimizer(optimizers.SGD(0.05)),
        lambda: optimizers.SGD(0.05, loss_scale_factor=64.0),
    ],
)
def test_a_scaled_loss_leaves_the_correction_as_it_is(make, nodes):
    x, y = nodes[1]
    plain, scaled = linear(optimizers.SGD(0.05)), linear(make())
    base, training = plain.get_weights(), Training(epochs=2, batch_size=8)
    one, other = (
        fit(m, base, x, y, training=training, seed=1, objective=FedProx(2.0)).weights for m in (plain, scaled)
    )
    assert distance(one, other) < 1e-5
    assert distance(one, base) > 0.01


def test_an_embeddings_gradient_may_be_sparse(rng):
    core = keras.Sequential([keras.Input((4,)), layers.Embedding(7, 3), layers.Flatten(), layers.Dense(1)])
    core.compile(optimizers.SGD(0.1), "mse")
    model = FederatedModel.from_core(core, task="supervised")
    x, y = rng.integers(0, 5, (64, 4)).astype("float32"), rng.normal(size=64)
    base = model.get_weights()
    result = fit(model, base, x, y, training=Training(steps=1, batch_size=64), seed=1, objective=Scaffold())
    c = [np.ones_like(a) for a in result.controls.own]
    zeros = [np.zeros_like(a) for a in c]
    drifted = fit(
        model, base, x, y, training=Training(steps=1, batch_size=64), seed=1, objective=Scaffold(), controls=(c, zeros)
    )
    assert all(
        np.allclose(a - b, -0.1, atol=1e-5) for a, b in zip(drifted.weights[2:], result.weights[2:], strict=True)
    )


class TestPersonal:
    def test_no_objective_touches_what_is_personal(self, rng):
        core = build_core(n_features=4, hidden=(3,))
        core.compile(optimizers.SGD(0.01), "mse")
        model = FederatedModel.from_core(core, personal=["*/output/*"])
        x = rng.normal(size=(64, 4))
        base, training = model.get_weights(), Training(steps=1, batch_size=64, learning_rate=0.01)
        plain = fit(model, base, x, None, training=training, seed=1)
        result = fit(model, base, x, None, training=training, seed=1, objective=Scaffold())
        assert len(result.controls.own) == 2
        c = [np.ones_like(a) for a in result.controls.own]
        drifted = fit(
            model, base, x, None, training=training, seed=1, objective=Scaffold(), controls=(c, [a * 0 for a in c])
        )
        assert distance(drifted.weights[4:], plain.weights[4:]) < 1e-7
        assert np.allclose(drifted.weights[2] - plain.weights[2], -0.01, atol=1e-6)

    def test_roles_that_a_manifest_changes_count_at_the_next_fit(self, rng):
        model = FederatedModel.from_core(build_core(n_features=4, hidden=(3,)))
        x, training = rng.normal(size=(64, 4)), Training(optimizer="SGD", learning_rate=0.01)
        base = model.get_weights()
        assert len(fit(model, base, x, None, training=training, seed=1, objective=Scaffold()).controls.own) == 4
        other = FederatedModel.from_core(build_core(n_features=4, hidden=(3,)), personal=["*/output/*"])
        model.take_roles(other.variables)
        assert len(fit(model, base, x, None, training=training, seed=1, objective=Scaffold()).controls.own) == 2


def test_a_round_with_the_same_objective_compiles_nothing(rng):
    core = keras.Sequential([keras.Input((3,)), custom_layers.Traced(), layers.Dense(3)])
    core.compile(optimizers.SGD(0.1), "mse")
    model = FederatedModel.from_core(core, custom_modules=["custom_layers"])
    x, base = rng.normal(size=(400, 3)), model.get_weights()
    shapes = [model.variables[p].shape for p in model.positions("trainable")]

    def round_of(text, steps, limit=None):
        training = Training(batch_size=4, steps=steps, objective=text, optimizer="SGD(momentum=0.5)")
        controls = None
        if text == "SCAFFOLD":
            controls = tuple([rng.normal(size=s).astype("float32") for s in shapes] for _ in range(2))
        start = [w + 0.1 for w in base]
        fit(
            model, start, rng.normal(size=(400, 3)), None, training=training, seed=1, controls=controls, max_steps=limit
        )

    for text in ("FedProx(mu=0.1)", "SCAFFOLD", ""):
        round_of(text, 37)
        custom_layers.traces.clear()
        for steps, limit in ((64, None), (100, 33), (250, 7)):
            round_of(text, steps, limit)
        if keras.backend.backend() != "torch":  # which runs the layer's Python each time
            assert custom_layers.traces == []
    assert fit(model, base, x, None, training=Training(), seed=1).steps == 12


class TestWhatDoesNotGoTogether:
    def refused(self, match, *, optimizer="", objective=None, controls=None, **training):
        model = linear()
        before = model.get_weights()
        x, y = np.ones((8, 3)), np.ones(8)
        with pytest.raises(ModelError, match=match):
            fit(
                model, before, x, y, training=Training(optimizer=optimizer, **training), seed=1, objective=objective,
                controls=controls,
            )  # fmt: skip
        assert equal(model.get_weights(), before)
        assert fit(model, before, x, y, training=Training(), seed=1).steps == 1

    def test_scaffold_needs_plain_steps(self):
        self.refused("expects the optimizer SGD. Received: Adam", optimizer="Adam", objective=Scaffold())
        self.refused(
            "Received: SGD with gradient_acc", optimizer="SGD(gradient_accumulation_steps=2)", objective=Scaffold()
        )
        self.refused("momentum < 1", optimizer="SGD(momentum=1)", objective=Scaffold())

    def test_controls_that_do_not_fit(self):
        zeros = arrays_of(np.zeros(4))
        for controls in ((zeros, zeros[:1]), (zeros[::-1], zeros), (zeros, [z.T for z in zeros])):
            self.refused("controls: expected c", objective=Scaffold(), controls=controls)
        broken = arrays_of(np.full(4, np.nan))
        self.refused("finite values in c_i", objective=Scaffold(), controls=(zeros, broken))
        self.refused("expected none for objective ''", controls=(zeros, zeros))

    def test_an_announcement_of_another_kind(self):
        model = linear()
        with pytest.raises(ModelError, match=r"expected FedProx\(mu=…\), SCAFFOLD, or nothing. Received: 'Magic'"):
            fit(model, model.get_weights(), np.ones((8, 3)), np.ones(8), training=Training(objective="Magic"), seed=1)


class TestText:
    @given(st.floats(0, 1e6))
    def test_every_objective_reads_back(self, mu):
        for objective in (Plain(), FedProx(mu), Scaffold()):
            assert parse_objective(str(objective)) == objective

    @pytest.mark.parametrize("text", ["FedProx(mu=0.01)", " fedprox( mu = 1e-2 ) ", "FEDPROX(mu=.01)"])
    def test_spaces_and_case_do_not_matter(self, text):
        assert parse_objective(text) == FedProx(0.01)

    @pytest.mark.parametrize(
        "text",
        [
            "FedProx", "FedProx()", "FedProx(0.1)", "FedProx(nu=1)", "FedProx(mu=-1)", "FedProx(mu=nan)",
            "FedProx(mu=inf)", "FedProx(mu=1, mu=2)", "FedProx(mu=true)", "FedProx(mu=exit())", "SCAFFOLD(a=1)",
            "FedProx(mu=1", "FedProx mu=1", "FedProx(mu=1))", "FedProx(mu=1)x", "plain", "()", "FedProx(mu=1_0.0)", "ü",
        ],
    )  # fmt: skip
    def test_anything_else_is_refused(self, text):
        with pytest.raises(ModelError, match="expected"):
            parse_objective(text)

    @given(st.text(max_size=60))
    def test_any_text_is_an_objective_or_a_model_error(self, text):
        try:
            objective = parse_objective(text)
        except ModelError:
            return
        assert parse_objective(str(objective)) == objective
