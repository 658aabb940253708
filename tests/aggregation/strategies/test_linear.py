"""Means, FedNova and staleness: what they weigh, and that they add."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.strategies import (
    Facts,
    FedNova,
    HingeStaleness,
    Mean,
    PolynomialStaleness,
    UniformMean,
    Update,
)
from dl_mqtt_clients.errors import RefusedError
from strategy_helpers import SIZE, aggregator, change, flat, merge, trainables, updates_of, vectors

weighted = st.lists(
    st.tuples(st.lists(st.floats(-50, 50, width=32), min_size=4, max_size=4), st.integers(1, 1000), st.integers(1, 40)),
    min_size=1,
    max_size=7,
)


@given(weighted)
def test_the_mean_weighs_by_examples(parts):
    rows, examples, _ = zip(*parts, strict=True)
    expected = np.average(np.float32(rows).astype(float), axis=0, weights=examples)
    assert np.allclose(change(Mean(), rows, examples=examples), expected, atol=1e-6)


@given(weighted)
def test_the_uniform_mean_does_not(parts):
    rows, examples, _ = zip(*parts, strict=True)
    expected = np.float32(rows).astype(float).mean(axis=0)
    assert np.allclose(change(UniformMean(), rows, examples=examples), expected, atol=1e-6)


@given(weighted)
def test_fednova_is_the_normalised_average_of_its_paper(parts):
    """Wang et al. 2020: x ← x - τ_eff Σ p_i η d_i, d_i = (change of node i) / τ_i."""
    rows, examples, steps = zip(*parts, strict=True)
    total = sum(examples)
    share = [n / total for n in examples]
    effective = sum(p * tau for p, tau in zip(share, steps, strict=True))
    direction = sum(p * np.float32(row).astype(float) / tau for p, row, tau in zip(share, rows, steps, strict=True))
    assert np.allclose(change(FedNova(), rows, examples=examples, steps=steps), effective * direction, atol=1e-4)


def test_fednova_with_equal_steps_is_the_mean():
    rows, examples = [[1.0, 2.0], [3.0, -6.0], [0.5, 0.0]], [10, 30, 5]
    assert np.allclose(
        change(FedNova(), rows, examples=examples, steps=[7, 7, 7]), change(Mean(), rows, examples=examples)
    )


def test_fednova_on_quadratics_finds_the_minimum_that_unequal_steps_hide_from_the_mean():
    """Two nodes, ½ (x ± 1)², the second making nine small steps for one: the minimum of the sum is at 0."""
    steps, rate = [1, 9], 0.01

    def rounds(reduction):
        x = 0.5
        for _ in range(400):
            locals_ = [centre + (x - centre) * (1 - rate) ** n - x for centre, n in zip((1, -1), steps, strict=True)]
            x += change(reduction, [[d] for d in locals_], steps=steps)[0]
        return x

    assert abs(rounds(FedNova())) < 0.03
    assert abs(rounds(Mean())) > 0.7


@pytest.mark.parametrize(("rho", "steps"), [(0.0, 5), (0.5, 1), (0.9, 4), (0.9, 50)])
def test_fednova_counts_steps_with_momentum_as_its_section_4(rho, steps):
    """A gradient of step i enters with 1 + ρ + … + ρ^(τ - 1 - i)."""
    norm = sum(sum(rho**j for j in range(steps - i)) for i in range(steps))
    facts = Facts(node="a", examples=3, steps=steps)
    assert FedNova(momentum=rho).weigh(facts).scale == pytest.approx(1 / norm)
    assert FedNova(momentum=rho).factor([facts, facts]) == pytest.approx(norm)


@given(st.integers(0, 100))
def test_polynomial_staleness_is_fedbuffs(staleness):
    facts = Facts(node="a", examples=1, staleness=staleness)
    scale = PolynomialStaleness().scale(facts, lambda: 1.0, {})
    assert scale == pytest.approx(1 / math.sqrt(1 + staleness))
    assert PolynomialStaleness(a=0).scale(facts, lambda: 1.0, {}) == 1.0


@given(st.integers(0, 100))
def test_hinge_staleness_is_fedasyncs(staleness):
    expected = 1.0 if staleness <= 4 else 1 / (10 * (staleness - 4) + 1)
    scale = HingeStaleness().scale(Facts(node="a", examples=1, staleness=staleness), lambda: 1.0, {})
    assert scale == pytest.approx(expected)


def test_a_buffer_is_divided_by_its_size_as_in_fedbuffs_algorithm_1():
    rows, staleness = [[8.0], [8.0]], [0, 3]
    assert change(UniformMean() @ PolynomialStaleness(), rows, staleness=staleness) == pytest.approx([(8 + 4) / 2])
    old = change(Mean() @ PolynomialStaleness(), rows, staleness=[3, 3])
    assert old == pytest.approx([4.0])


LINEAR = [Mean(), UniformMean(), FedNova()]


@pytest.mark.parametrize("reduction", LINEAR)
@given(row=st.lists(st.floats(-50, 50, width=32), min_size=3, max_size=3), n=st.integers(1, 6))
def test_the_mean_of_identical_updates_is_the_update(reduction, row, n):
    result = change(reduction, [row] * n, examples=list(range(1, n + 1)), steps=[4] * n)
    assert np.allclose(result, np.float32(row), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("reduction", LINEAR)
@given(rows=vectors(4, most=6, limit=20), factor=st.sampled_from([0.5, 2.0, -1.0, 4.0]))
def test_scaling_every_update_scales_the_mean(reduction, rows, factor):
    scaled = change(reduction, factor * np.float32(rows))
    assert np.allclose(scaled, factor * change(reduction, rows), atol=1e-6)


@pytest.mark.parametrize("reduction", [Mean(), UniformMean()])
@given(rows=vectors(4, most=6, limit=20), shift=st.floats(-20, 20, width=32))
def test_moving_every_update_moves_the_mean(reduction, rows, shift):
    moved = change(reduction, (np.float32(rows) + np.float32(shift)))
    assert np.allclose(moved, change(reduction, rows) + shift, atol=1e-4)


def test_small_changes_survive_the_fixed_point_of_a_uniform_mean():
    result = change(UniformMean(), [[1e-6, -3e-7], [3e-6, 1e-7]])
    assert np.allclose(result, [2e-6, -1e-7], rtol=1e-3)


class Trusting:
    """Weights that are no integers, and some of them 0."""

    def __init__(self, **trust):
        self.trust = trust

    def weigh(self, update):
        from dl_mqtt_clients.aggregation.strategies import Share

        return Share(update.examples * self.trust[update.node.replace("-", "_")])


def test_a_weight_may_be_any_number_and_0_leaves_an_update_out():
    trusting = Trusting(node_00=0.25, node_01=0.5, node_02=0.0)
    updates = updates_of(np.outer([1, 4, 40], np.ones(SIZE)), examples=[4, 6, 8])
    merged = merge(trusting, updates)
    assert np.allclose(flat(merged.change), (1 * 1 + 3 * 4) / 4)
    assert merged.weights == {"node-00": 0.25, "node-01": 0.75, "node-02": 0.0}


def test_updates_without_any_weight_are_an_error_and_not_a_change_of_0():
    running = aggregator(Trusting(node_00=0.0))
    running.add(updates_of([np.ones(SIZE)])[0])
    with pytest.raises(RefusedError, match="expected an update of a weight above 0"):
        running.result()


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(RefusedError, match="weight: expected a finite number > 0"):
        aggregator(Trusting(node_00=weight)).check(updates_of([np.ones(SIZE)])[0])


def test_weights_say_who_counted_how_much():
    merged = merge(Mean(), updates_of(np.ones((2, SIZE)), examples=[30, 10]))
    assert merged.weights == {"node-00": 0.75, "node-01": 0.25}


def test_more_examples_than_announced_cannot_make_the_sum_wrap():
    running = aggregator(Mean(), trainables(((1,),)), max_examples=1)
    updates = [Update(node=str(k), arrays=[np.float32([100.0])], examples=50) for k in range(4)]
    for update in updates[:3]:
        running.add(update)
    with pytest.raises(RefusedError, match="too large"):
        running.add(updates[3])
    assert running.result().change[0] == pytest.approx(100.0)
