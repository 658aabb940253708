"""Clipping: by a fixed bound, and by one that follows a quantile."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.fixed_point import BLOCK
from dl_mqtt_clients.aggregation.strategies import (
    AdaptiveClip,
    ClipNorm,
    Krum,
    Mean,
    Median,
    MedianClip,
    PolynomialStaleness,
    Share,
    Update,
)
from dl_mqtt_clients.aggregation.strategies.norms import global_norm
from strategy_helpers import SIZE, aggregator, change, flat, merge, trainables, updates_of, variable, vectors


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


# ---- the median of the nodes' norms ----


def geyer(rounds, factor):
    """Geyer et al. 2017, Algorithm 1, its median taken of the round before: the change of each round."""
    bound, path = None, []
    for rows in rounds:
        norms = [float(np.linalg.norm(row)) for row in rows]
        used = factor * np.median(norms) if bound is None else bound
        path.append(
            np.mean([row / max(1.0, n / used) if n else row for row, n in zip(rows, norms, strict=True)], axis=0)
        )
        bound = factor * np.median(norms) or used
    return path


@pytest.mark.parametrize("reduction", [Mean(), "robust"])
@given(
    rounds=st.lists(vectors(4, least=2, most=7), min_size=1, max_size=4).filter(
        lambda r: np.abs(r[0]).max(1).min() > 1e-3
    ),
    factor=st.floats(0.25, 4),
)
def test_median_clipping_follows_the_median_of_the_round_before(reduction, rounds, factor):
    class PlainMean:
        def reduce(self, stack):
            return stack.mean()

    strategy = (PlainMean() if reduction == "robust" else reduction) @ MedianClip(factor)
    rounds = [[np.float32(row).astype(float) for row in rows] for rows in rounds]
    state = None
    for rows, expected in zip(rounds, geyer(rounds, factor), strict=True):
        merged = merge(strategy, updates_of(rows, shapes=((4,),)), variables=trainables(((4,),)), state=state)
        state = merged.state
        assert np.allclose(flat(merged.change), expected, atol=1e-4)


def test_a_first_round_is_clipped_at_its_own_median():
    rows = [[1.0], [1.2], [0.8], [1.0], [-50.0]]
    assert change(Mean() @ MedianClip(3.0), rows) == pytest.approx([(1.0 + 1.2 + 0.8 + 1.0 - 3.0) / 5])


def test_an_honest_round_is_left_as_it_is_bit_by_bit():
    rows = np.random.default_rng(0).normal(size=(9, SIZE))
    plain, first = merge(Mean(), updates_of(rows)), merge(Mean() @ MedianClip(), updates_of(rows))
    second = merge(Mean() @ MedianClip(), updates_of(rows), state=first.state)
    assert [a.tobytes() for a in plain.change] == [a.tobytes() for a in first.change]
    assert [a.tobytes() for a in plain.change] == [a.tobytes() for a in second.change]


def test_only_the_first_round_is_read_again_at_the_end():
    first = aggregator(Mean() @ MedianClip())
    assert first.needs_updates
    updates = updates_of(np.ones((3, SIZE)))
    for update in updates:
        first.add(update)
    second = aggregator(Mean() @ MedianClip(), state=first.result(updates).state)
    assert not second.needs_updates
    assert aggregator(Median() @ MedianClip(), state=first.result(updates).state).needs_updates


@pytest.mark.parametrize("given_back", [slice(0, 2), slice(0, 4)])
def test_a_first_round_must_be_given_exactly_what_was_added(given_back):
    updates = updates_of(np.ones((4, SIZE)))
    running = aggregator(Mean() @ MedianClip())
    for update in updates[:3]:
        running.add(update)
    with pytest.raises(ValueError, match="updates: expected"):
        running.result(updates[given_back])


def test_fewer_than_half_the_nodes_cannot_raise_the_bound():
    """What is left of a liar is at most factor · the honest norm, round after round."""
    strategy, state = Mean() @ MedianClip(2.0), None
    for size in (10.0, 50.0, 90.0):
        rows = [[1.0], [1.0], [1.0], [size], [size]]
        merged = merge(strategy, updates_of(rows, shapes=((1,),)), variables=[variable((1,))], state=state)
        state = merged.state
        assert flat(merged.change) == pytest.approx([(3 * 1.0 + 2 * 2.0) / 5])


def test_a_round_in_which_nothing_changed_does_not_close_the_door():
    strategy = Mean() @ MedianClip(2.0)
    state = merge(strategy, updates_of([np.zeros(SIZE)] * 3)).state
    assert change(Mean(), [[1.0]]) == pytest.approx(
        flat(merge(strategy, updates_of([[1.0]], shapes=((1,),)), variables=[variable((1,))], state=state).change)
    )


def test_a_clip_before_another_passes_on_what_it_leaves():
    rows = [[1.0], [1.0], [40.0]]
    assert change(Mean() @ MedianClip(3.0) @ ClipNorm(2.0), rows) == pytest.approx([(1 + 1 + 2) / 3])
    assert change(Mean() @ ClipNorm(2.0) @ MedianClip(3.0), rows) == pytest.approx([(1 + 1 + 2) / 3])
    assert change(Mean() @ MedianClip(1.5) @ ClipNorm(2.0), rows) == pytest.approx([(1 + 1 + 1.5) / 3])


def test_the_median_is_of_norms_as_the_clip_meets_them():
    strategy = Mean() @ MedianClip(1.5) @ PolynomialStaleness()
    assert change(strategy, [[8.0], [8.0], [8.0]], staleness=[0, 3, 3]) == pytest.approx([(6 + 4 + 4) / 3])


def test_an_update_left_out_by_its_weight_is_left_out_of_a_first_round_too():
    class NotTheLast:
        def weigh(self, update):
            return Share(0.0 if update.node == "node-02" else 1.0)

    assert change(NotTheLast() @ MedianClip(3.0), [[1.0], [3.0], [9.0]]) == pytest.approx([2.0])


def test_krum_sees_updates_clipped_at_their_own_median_in_a_first_round():
    rows = [[1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [0.0, 99.0], [1.0, 0.1]]
    assert change(Krum(f=1) @ MedianClip(0.5), rows)[0] == pytest.approx(0.5, abs=0.01)


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
