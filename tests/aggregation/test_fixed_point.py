"""The running sum: exact in any order, never wrapped, near the float64 mean."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.fixed_point import BLOCK, RunningSum, scale_bits
from dl_mqtt_clients.errors import RefusedError

SHAPES = [(2, 3), (), (0,), (4,)]
BITS = 24


def updates_of(dtype=np.float32, limit=100.0):
    values = st.floats(-limit, limit, width=np.finfo(dtype).bits)
    update = st.tuples(*[hnp.arrays(dtype, shape, elements=values) for shape in SHAPES])
    return st.lists(st.tuples(update, st.integers(1, 10**6)), min_size=1, max_size=6)


def total(parts, bits=BITS) -> RunningSum:
    result = RunningSum(SHAPES, bits=bits)
    for update, weight in parts:
        result.add(update, weight=weight)
    return result


def content(running: RunningSum) -> tuple:
    return running.weight, running.updates, [s.tobytes() for s in running._sums]


@given(parts=updates_of(), data=st.data())
def test_any_order_gives_the_same_sum_bit_by_bit(parts, data):
    shuffled = data.draw(st.permutations(parts))
    assert content(total(parts)) == content(total(shuffled))
    assert [m.tobytes() for m in total(parts).mean()] == [m.tobytes() for m in total(shuffled).mean()]


@given(parts=updates_of(), data=st.data())
def test_any_grouping_gives_the_same_sum_bit_by_bit(parts, data):
    cut = data.draw(st.integers(0, len(parts)))
    left, right = total(parts[:cut]), total(parts[cut:])
    assert content(left + right) == content(total(parts))
    assert content(right + left) == content(total(parts))
    assert content(left + RunningSum(SHAPES, bits=BITS)) == content(left)


@given(updates_of())
def test_adding_does_not_change_the_parts(parts):
    left, right = total(parts[:1]), total(parts[1:])
    before = content(left), content(right)
    left + right
    assert (content(left), content(right)) == before


@given(updates_of() | updates_of(np.float64) | updates_of(np.float16))
def test_the_mean_is_within_half_a_step_of_the_float64_mean(parts):
    running = total(parts)
    for position, mean in enumerate(running.mean()):
        exact = sum(w * u[position].astype(np.float64) for u, w in parts) / sum(w for _, w in parts)
        step = 0.5 * 2.0**-BITS * len(parts) / running.weight  # each product is rounded once, by half a step at most
        assert np.all(np.abs(mean - exact) <= step + 1e-13 * (1 + np.abs(exact)))


def test_a_product_of_a_float32_and_a_large_weight_is_not_rounded_to_float32():
    running = RunningSum([(1,)], bits=20)
    running.add([np.float32([1.0])], weight=2**24 + 1)
    assert running._sums[0][0] == (2**24 + 1) * 2**20


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_blocks_meet_without_gap_or_overlap(size):
    running = RunningSum([(size,)], bits=8)
    running.add([np.arange(size, dtype=np.float32)], weight=3)
    running.add([np.arange(size, dtype=np.float32)[::-1]], weight=1)
    assert np.array_equal(running._sums[0], (3 * np.arange(size) + np.arange(size)[::-1]) * 256)


def test_the_mean_weighs_by_examples():
    running = RunningSum([(2,)], bits=BITS)
    running.add([np.float32([0, 8])], weight=300)
    running.add([np.float32([4, 0])], weight=100)
    assert running.weight == 400
    assert running.updates == 2
    assert running.mean()[0].tolist() == [1.0, 6.0]


def test_without_updates_there_is_no_mean():
    with pytest.raises(ValueError, match=r"weight: expected a positive sum of examples. Received: 0"):
        RunningSum(SHAPES, bits=BITS).mean()


def test_updates_of_zeros_move_nothing():
    running = total([([np.zeros(s, np.float32) for s in SHAPES], 5)] * 3)
    assert all(not m.any() for m in running.mean())
    assert running.weight == 15


WRONG = {
    "too large": (np.float32([1, 2.0**100]), 1),
    "too large with its weight": (np.float32([1, 2.0**20]), 2**20),
    "negative and too large": (np.float32([1, -(2.0**100)]), 1),
    "infinite": (np.float32([1, math.inf]), 1),
    "negative infinite": (np.float32([1, -math.inf]), 1),
    "not a number": (np.float32([1, math.nan]), 1),
    "the smallest integer": (np.array([5, -(2**63)]), 1),
    "weight 0": (np.float32([1, 2]), 0),
    "negative weight": (np.float32([1, 2]), -5),
    "another shape": (np.float32([1, 2, 3]), 1),
    "another shape of the same size": (np.float32([[1, 2]]), 1),
}


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_would_leave_the_range_is_refused_and_nothing_is_added(wrong, place):
    running = RunningSum([(2,), (2,)], bits=BITS)
    running.add([np.float32([1, 1])] * 2, weight=7)
    before = content(running)
    part, weight = WRONG[wrong]
    update = [np.float32([1, 1])] * 2
    update[place] = part
    with pytest.raises(RefusedError):
        running.add(update, weight=weight)
    assert content(running) == before
    running.add([np.float32([1, 1])] * 2, weight=1)
    assert running.mean()[1].tolist() == [1.0, 1.0]


def test_the_wrong_number_of_variables_is_refused():
    with pytest.raises(RefusedError, match="other shapes"):
        RunningSum([(2,), (2,)], bits=BITS).add([np.float32([1, 1])], weight=1)


def test_checking_adds_nothing():
    running = RunningSum([(1,)], bits=BITS)
    assert running.check([np.float32([-2])], 3) == 6 * 2**BITS
    assert running.weight == 0
    assert not running._sums[0].any()


def test_many_that_fit_alone_are_refused_before_their_sum_wraps():
    running = RunningSum([(1,)], bits=0)
    for _ in range(3):
        running.add([np.float64([2.0**60])], weight=1)
    with pytest.raises(RefusedError, match="too large"):
        running.add([np.float64([2.0**60])], weight=1)
    assert running._sums[0][0] == 3 * 2**60


def test_parts_that_fit_alone_are_not_added_when_their_sum_would_wrap():
    half = RunningSum([(1,)], bits=0)
    half.add([np.float64([2.0**61 * 1.5])], weight=1)
    with pytest.raises(RefusedError, match="leave the range"):
        half + half


@given(st.lists(st.floats(-(2.0**61), 2.0**61), max_size=20))
def test_a_sum_never_wraps(values):
    running, exact = RunningSum([()], bits=0), 0
    for value in values:
        try:
            running.add([np.float64(value).reshape(())], weight=1)
        except RefusedError:
            continue
        exact += round(value)
    assert int(running._sums[0]) == exact


def test_only_sums_of_one_scale_and_shape_add():
    with pytest.raises(ValueError, match=r"bits: expected 24 as in this sum. Received: 20"):
        RunningSum(SHAPES, bits=24) + RunningSum(SHAPES, bits=20)
    with pytest.raises(ValueError, match="shapes"):
        RunningSum([(2,)], bits=24) + RunningSum([(1,)], bits=24)


def test_the_scale_leaves_about_ten_million_steps_a_unit_in_a_large_federation():
    assert scale_bits(max_abs=100.0, max_weight=1e6 * 2000) == 24
    assert scale_bits(max_abs=1e-9, max_weight=1) == 50
    assert scale_bits(max_abs=1e30, max_weight=1e30) == 0


@given(max_abs=st.floats(1e-3, 1e6), nodes=st.integers(1, 50), weight=st.integers(1, 10**6))
def test_as_many_updates_as_the_scale_was_made_for_always_fit(max_abs, nodes, weight):
    running = RunningSum([(1,)], bits=scale_bits(max_abs=max_abs, max_weight=weight * nodes))
    for _ in range(nodes - 1):
        running.add([np.array([max_abs])], weight=weight)
    running.add([np.array([max_abs])], weight=max(weight - 1, 1))
    assert running.updates == nodes


# ---- scales, and weights that are no integers ----


@given(parts=updates_of(), scale=st.floats(0.001, 1.0), data=st.data())
def test_a_scale_makes_an_update_smaller_and_not_rarer(parts, scale, data):
    running = RunningSum(SHAPES, bits=BITS)
    for update, weight in data.draw(st.permutations(parts)):
        running.add(update, weight=weight, scale=scale)
    assert running.weight == sum(weight for _, weight in parts)
    for scaled, plain in zip(running.mean(), total(parts).mean(), strict=True):
        assert np.allclose(scaled, scale * plain, atol=1e-5)


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8), st.data())
def test_weights_that_are_no_integers_add_exactly_in_any_order(weights, data):
    def mean(order):
        running = RunningSum([(2,)], bits=BITS)
        for weight in order:
            running.add([np.float32([3, -5])], weight=weight)
        return running.weight, running.mean()[0].tobytes(), running.mean()[0]

    one, other = mean(weights), mean(data.draw(st.permutations(weights)))
    assert one[:2] == other[:2]
    assert one[2] == pytest.approx([3, -5], abs=1e-3)


@pytest.mark.parametrize("bits", [24, 48, 58])
def test_rounding_by_addition_is_rint_at_every_size(bits):
    """Below 2⁵¹ values are rounded by adding 1.5·2⁵², above by rint; both half to even."""
    values = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 1 - 2.0**-53, 0.49999999999999994, 7.25, 0.0]) * 2.0**-24
    running = RunningSum([values.shape], bits=bits)
    running.add([values], weight=1)
    assert running._sums[0].tolist() == np.rint(values * 2.0**bits).astype(np.int64).tolist()


@pytest.mark.parametrize("edge", [2**51 - 1, 2**51, 2**51 + 1, 2**53 + 2])
def test_where_one_way_of_rounding_ends_the_other_goes_on(edge):
    values = np.array([float(edge), -float(edge), 2.5, -3.5])
    running = RunningSum([values.shape], bits=0)
    running.add([values], weight=1)
    assert running._sums[0].tolist() == [edge, -edge, 2, -4]


def test_a_negative_scale_takes_as_much_room_as_a_positive_one():
    running = RunningSum([(1,)], bits=0)
    for scale in (1.0, -1.0, 1.0):
        running.add([np.float64([2.0**60])], weight=1, scale=scale)
    with pytest.raises(RefusedError, match="too large"):
        running.add([np.float64([2.0**60])], weight=1, scale=-1.0)


def test_what_check_found_need_not_be_found_again_and_is_not_believed_when_it_no_longer_fits():
    running, update = RunningSum([(1,)], bits=0), [np.float64([2.0**60])]
    largest = running.check(update, 1)
    for _ in range(3):
        running.add(update, weight=1, largest=largest)
    with pytest.raises(RefusedError, match="too large"):
        running.add(update, weight=1, largest=largest)


def test_the_mean_of_a_single_number_is_an_array():
    running = RunningSum([()], bits=8)
    running.add([np.float32(3).reshape(())], weight=2)
    assert isinstance(running.mean()[0], np.ndarray)
