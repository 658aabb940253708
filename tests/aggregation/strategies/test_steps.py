"""Server steps against the papers' pseudocode, written out plainly here."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.fixed_point import BLOCK
from dl_mqtt_clients.aggregation.strategies import FedAdagrad, FedAdam, FedAvg, FedAvgM, FedYogi, Mean, Update
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.wire.messages import Variable
from strategy_helpers import SIZE, aggregator, flat, merge, updates_of, vectors


def reddi(rule, deltas, *, lr, beta_1, beta_2=0.0, tau):
    """Reddi et al. 2021, Algorithm 2, one coordinate, from x = 0: x after each round."""
    x, m, v, path = 0.0, 0.0, tau * tau, []
    for delta in deltas:
        m = beta_1 * m + (1 - beta_1) * delta
        if rule == "adagrad":
            v = v + delta**2
        elif rule == "yogi":
            v = v - (1 - beta_2) * delta**2 * np.sign(v - delta**2)
        else:
            v = beta_2 * v + (1 - beta_2) * delta**2
        x = x + lr * m / (math.sqrt(v) + tau)
        path.append(x)
    return path


def run(step, rounds):
    """Rounds of one update each, the state handed on: x after each round, [rounds, coordinates]."""
    x, state, path = np.zeros(SIZE), None, []
    for vector in rounds:
        merged = merge(step, updates_of([vector]), state=state)
        state = merged.state
        x = x + flat(merged.change)
        path.append(x)
    return np.array(path)


RULES = {
    "adagrad": (FedAdagrad(lr=0.1, beta_1=0.3, tau=1e-2), {"lr": 0.1, "beta_1": 0.3, "tau": 1e-2}),
    "adam": (FedAdam(lr=0.05, beta_1=0.8), {"lr": 0.05, "beta_1": 0.8, "beta_2": 0.99, "tau": 1e-3}),
    "yogi": (FedYogi(lr=0.2, beta_2=0.9), {"lr": 0.2, "beta_1": 0.9, "beta_2": 0.9, "tau": 1e-3}),
}


@pytest.mark.parametrize("rule", RULES)
@given(rounds=vectors(most=6))
def test_adaptive_steps_do_what_algorithm_2_says(rule, rounds):
    step, settings = RULES[rule]
    expected = [reddi(rule, column, **settings) for column in np.float32(rounds).T.astype(float)]
    assert np.allclose(run(step, rounds).T, expected, rtol=1e-3, atol=1e-4)  # moments rest as float32


@given(rounds=vectors(most=6))
def test_fedavgm_adds_its_momentum(rounds):
    x, momentum, expected = 0.0, 0.0, []
    for delta in np.float32(rounds).astype(float):
        momentum = 0.7 * momentum + delta  # Hsu et al. 2019, section 4.3
        x = x + 0.5 * momentum
        expected.append(x)
    assert np.allclose(run(FedAvgM(lr=0.5, momentum=0.7), rounds), expected, rtol=1e-5, atol=1e-4)


@given(vectors(most=1))
def test_fedavg_adds_the_mean_times_its_learning_rate(rounds):
    assert np.allclose(run(FedAvg(), rounds), np.float32(rounds), atol=1e-6)
    assert np.allclose(run(FedAvg(lr=0.25), rounds), 0.25 * np.float32(rounds), atol=1e-6)


def test_fedavg_on_quadratics_goes_to_the_weighted_mean_of_their_minima():
    """f_k = ½ (x - c_k)²; a local gradient step of size η moves by η (c_k - x): a round maps x to x + η (c̄ - x)."""
    minima, examples, rate, x = np.array([1.0, -2.0, 7.0]), [10, 30, 60], 0.5, 20.0
    centre = np.dot(minima, examples) / 100
    for number in range(1, 9):
        merged = merge(
            FedAvg() @ Mean(), updates_of(list(np.outer(rate * (minima - x), np.ones(SIZE))), examples=examples)
        )
        x = x + flat(merged.change)[0]
        assert x == pytest.approx(centre + (20.0 - centre) * (1 - rate) ** number, abs=1e-5)


@pytest.mark.parametrize("size", [0.1, 1.0, 40.0])
def test_fedadams_first_step_is_the_learning_rate_times_the_sign(size):
    """m = (1 - β₁) Δ, √v ≈ √(1 - β₂) |Δ|: with the defaults 0.1 Δ / (0.1 |Δ|), for |Δ| ≫ τ."""
    signs = np.resize([1.0, -1.0, 1.0], SIZE)
    first = run(FedAdam(lr=0.01), [size * signs])[0]
    assert np.allclose(first, 0.01 * signs, rtol=0.12)
    assert np.allclose(first, 0.01 * 0.1 * size * signs / (math.sqrt(0.99e-6 + 0.01 * size**2) + 1e-3))


@given(st.sampled_from([FedAdagrad(), FedAdam(), FedYogi()]), vectors(least=2, most=6))
def test_the_second_moment_is_never_negative(step, rounds):
    state = None
    for vector in rounds:
        state = merge(step, updates_of([vector]), state=state).state
        assert all((array >= 0).all() for name, array in state.items() if "/variance/" in name)


def test_state_is_named_by_step_slot_and_position():
    state = merge(FedAdam(), updates_of([np.ones(SIZE)])).state
    assert sorted(state) == [
        "step.FedAdam/momentum/0000", "step.FedAdam/momentum/0001", "step.FedAdam/momentum/0002",
        "step.FedAdam/variance/0000", "step.FedAdam/variance/0001", "step.FedAdam/variance/0002",
    ]  # fmt: skip
    assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
    assert state["step.FedAdam/momentum/0000"].shape == (2, 3)


def test_a_merge_does_not_write_to_the_state_it_is_given():
    state = merge(FedAdam(), updates_of([np.ones(SIZE)])).state
    before = {name: array.copy() for name, array in state.items()}
    merge(FedAdam(), updates_of([np.ones(SIZE)]), state=state)
    assert all((state[name] == before[name]).all() for name in before)


def test_another_step_starts_afresh():
    state = merge(FedAdam(), updates_of([np.ones(SIZE)])).state
    fresh = merge(FedYogi(), updates_of([np.ones(SIZE)]))
    assert np.array_equal(flat(merge(FedYogi(), updates_of([np.ones(SIZE)]), state=state).change), flat(fresh.change))


def test_state_of_another_model_is_an_error():
    state = {"step.FedAvgM/momentum/0001": np.zeros(5, np.float32)}
    running = aggregator(FedAvgM(), state=state)
    running.add(updates_of([np.ones(SIZE)])[0])
    with pytest.raises(StateError, match=r"0001: expected shape \(4,\). Received: \(5,\)"):
        running.result()


def test_a_large_variable_is_stepped_block_by_block_without_gaps():
    shape = (2 * BLOCK + 3,)
    values = np.linspace(-3, 3, shape[0], dtype=np.float32)
    variables = [Variable(role="trainable", shape=shape, dtype="float32", path="big")]
    merged = merge(FedAdam(), [Update(node="a", arrays=[values], examples=1)], variables=variables)
    wide = values.astype(float)
    expected = 0.01 * 0.1 * wide / (np.sqrt(0.99e-6 + 0.01 * wide**2) + 1e-3)
    assert np.allclose(merged.change[0], expected, atol=1e-9)
