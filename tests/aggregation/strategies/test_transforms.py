"""Clipping: by a fixed bound, and by one that follows a quantile."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.fixed_point import BLOCK
from dl_mqtt_clients.aggregation.strategies import AdaptiveClip, ClipNorm, Mean, Median, PolynomialStaleness, Update
from dl_mqtt_clients.aggregation.strategies.norms import global_norm
from strategy_helpers import SIZE, change, flat, merge, updates_of, variable, vectors


@given(vectors(most=1), st.floats(0.1, 200))
def test_clipping_is_a_division_by_max_of_1_and_norm_over_bound(rows, bound):
    """McMahan et al. 2018: Δ / max(1, ‖Δ‖ / S)."""
    row = np.float32(rows[0]).astype(float)
    expected = row / max(1.0, float(np.linalg.norm(row)) / bound)
    assert np.allclose(change(Mean() @ ClipNorm(bound), rows), expected, atol=1e-5)


@given(vectors(most=6), st.floats(0.1, 200))
def test_no_set_of_updates_moves_a_clipped_mean_further_than_the_bound(rows, bound):
    assert np.linalg.norm(change(Mean() @ ClipNorm(bound), rows)) <= bound * (1 + 1e-6) + 1e-5


def test_the_norm_is_over_all_variables_together():
    updates = updates_of([np.full(SIZE, 3.0)])
    assert len(updates[0].arrays) == 3
    clipped = flat(merge(Mean() @ ClipNorm(1.0), updates).change)
    assert np.linalg.norm(clipped) == pytest.approx(1.0, abs=1e-6)


def test_statistics_are_neither_measured_nor_clipped():
    variables = [variable((2,)), variable((2,), "bn/moving_mean", "statistic")]
    update = Update(node="a", arrays=[np.float32([3, 4]), np.float32([30, 40])], examples=5)
    kernel, mean = merge(Mean() @ ClipNorm(1.0), [update], variables=variables).change
    assert np.allclose(kernel, [0.6, 0.8])
    assert np.allclose(mean, [30, 40])


def test_robust_reductions_see_clipped_updates():
    rows = [[1.0, 0.0], [2.0, 0.0], [50.0, 0.0]]
    assert change(Median() @ ClipNorm(1.5), rows) == pytest.approx([1.5, 0.0])


def test_a_clip_after_staleness_measures_what_is_left_of_the_update():
    rows = [[8.0]]
    assert change(Mean() @ ClipNorm(3.0) @ PolynomialStaleness(), rows, staleness=[3]) == pytest.approx([3.0])
    assert change(Mean() @ PolynomialStaleness() @ ClipNorm(3.0), rows, staleness=[3]) == pytest.approx([1.5])


def andrew(rounds, *, bound, quantile, lr):
    """Andrew et al. 2021, Algorithm 1 without noise: the bound after each round of norms."""
    path = []
    for norms in rounds:
        b = sum(norm <= bound for norm in norms) / len(norms)
        bound = bound * math.exp(-lr * (b - quantile))
        path.append(bound)
    return path


@given(st.lists(st.lists(st.floats(1 / 64, 50, width=32), min_size=1, max_size=6), min_size=1, max_size=6))
def test_adaptive_clipping_moves_its_bound_as_algorithm_1(rounds):
    strategy, state, path = Mean() @ AdaptiveClip(bound=0.5, quantile=0.7, lr=0.3), None, []
    for norms in rounds:
        updates = updates_of([[norm] for norm in norms], shapes=((1,),))
        state = merge(strategy, updates, variables=[variable((1,))], state=state).state
        path.append(float(state["transform.0.AdaptiveClip/bound"]))
    assert path == pytest.approx(andrew(rounds, bound=0.5, quantile=0.7, lr=0.3))


def test_the_adaptive_bound_finds_the_quantile():
    norms = np.linspace(0.5, 10.0, 20)
    strategy, state = Mean() @ AdaptiveClip(quantile=0.5), None
    for _ in range(120):
        updates = updates_of([[norm] for norm in norms], shapes=((1,),))
        state = merge(strategy, updates, variables=[variable((1,))], state=state).state
    assert float(state["transform.0.AdaptiveClip/bound"]) == pytest.approx(np.median(norms), rel=0.1)


def test_two_adaptive_clips_keep_their_own_bounds():
    strategy = Mean() @ AdaptiveClip(bound=4.0) @ AdaptiveClip(bound=1.0)
    state = merge(strategy, updates_of([[2.0]], shapes=((1,),)), variables=[variable((1,))]).state
    assert float(state["transform.0.AdaptiveClip/bound"]) == pytest.approx(math.exp(0.1))  # 2 was above 1
    assert float(state["transform.1.AdaptiveClip/bound"]) == pytest.approx(4 * math.exp(-0.1))


# ---- norms ----


@pytest.mark.parametrize("size", [0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_the_global_norm_is_right_to_seven_digits(size, dtype):
    array = np.random.default_rng(size).standard_normal(size).astype(dtype)
    expected = math.sqrt(2 * math.fsum(float(x) ** 2 for x in array))
    assert global_norm([array, array]) == pytest.approx(expected, rel=1e-7)


def test_squares_beyond_float32_are_still_measured():
    array = np.zeros(BLOCK + 2, np.float32)
    array[[3, -1]] = 3e25, 4e25
    assert global_norm([array]) == pytest.approx(5e25)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, -1])
def test_the_norm_of_what_is_not_finite_is_not_finite(value, place):
    array = np.zeros(BLOCK + 2, np.float32)
    array[place] = value
    assert not math.isfinite(global_norm([array]))


def test_the_norm_does_not_depend_on_where_the_array_lies():
    raw = np.random.default_rng(1).standard_normal(3 * BLOCK + 9).astype(np.float32)
    shifted = np.empty(4 * raw.size + 1, np.uint8)[1:].view()
    shifted[:] = raw.view(np.uint8)
    assert global_norm([shifted.view(np.float32)]) == global_norm([raw])
