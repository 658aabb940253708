"""int8 and int4: unbiased, whole steps stay whole, one group does not coarsen another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_helpers import fixed, normal, tensors, variables_of
from dl_mqtt_clients.wire.codecs import codec, tensor_file
from dl_mqtt_clients.wire.codecs.integers import GROUP, _scale

LEVELS = {"int8": 127, "int4": 7}
both = pytest.mark.parametrize("name", LEVELS)


def read(name, x, seed):
    one, given_variables = codec(name), variables_of([x])
    return one.decode(one.encode([x], given_variables, seed=seed).data, given_variables)[0]


def scales(name, x):
    one, given_variables = codec(name), variables_of([x])
    data = one.encode([x], given_variables, seed=None).data
    return tensor_file.read(data, one._tensors(given_variables, (0,)))["0000.scale"]


@both
def test_the_mean_over_many_seeds_is_the_value(name):
    """Standard error of a value: step/2/√seeds at most; five of them for the worst of 1,500 values."""
    x, seeds = normal(1500), 400
    step = scales(name, x)[np.arange(1500) // GROUP].astype(np.float64)
    total = np.zeros(1500)
    for seed in range(seeds):
        total += read(name, x, seed)
    off = (total / seeds - x) / step  # in steps
    assert np.abs(off).max() <= 5 * 0.5 / seeds**0.5
    assert abs(off.mean()) <= 4 * 0.5 / (seeds * 1500) ** 0.5


@both
@pytest.mark.parametrize("fraction", [1 / 65536, 0.001, 0.25, 0.5, 0.999])
@pytest.mark.parametrize("whole", [0, 3, -4, -7])
def test_a_value_between_two_steps_goes_up_as_often_as_it_is_near_the_upper_one(name, fraction, whole):
    x = np.full(256 * GROUP, whole + fraction, np.float32)
    x[::GROUP] = LEVELS[name]  # the step is 1
    rounded = read(name, x, 11).reshape(-1, GROUP)[:, 1:]
    assert set(np.unique(rounded)) <= {whole, whole + 1}
    expected = float(np.float32(whole + fraction)) - whole
    error = (expected * (1 - expected) / rounded.size) ** 0.5
    assert abs((rounded == whole + 1).mean() - expected) <= 4.5 * error + 2.0**-16


@both
@given(x=tensors(), seed=st.integers(0, 2**64))
def test_each_value_is_less_than_a_step_of_its_group_off_and_half_a_step_to_nearest(name, x, seed):
    step = scales(name, x)[np.arange(x.size) // GROUP].astype(np.float64)
    assert (np.abs(read(name, x, seed).astype(np.float64) - x) < step * (1 + 2.0**-16)).all()
    assert (np.abs(read(name, x, None).astype(np.float64) - x) <= step * (0.5 + 2.0**-16)).all()


@both
@given(x=tensors())
def test_a_step_is_the_largest_of_its_group_over_the_levels_and_at_most_2_to_the_minus_16_more(name, x):
    padded = np.pad(x.astype(np.float64), (0, -x.size % GROUP))
    exact = np.abs(padded).reshape(-1, GROUP).max(axis=1) / LEVELS[name]
    step = scales(name, x).astype(np.float64)
    assert (step >= exact).all()
    assert (step <= np.maximum(exact * (1 + 2.0**-16), 2.0**-126)).all()


@both
@given(x=tensors(), seed=st.integers(0, 2**64))
def test_whole_steps_stay_whole_under_any_seed(name, x, seed):
    rounded = read(name, x, None)
    assert read(name, rounded, seed).tobytes() == rounded.tobytes()


@both
@given(x=tensors(), seed=st.integers(0, 2**64))
def test_no_change_stays_no_change_and_signs_never_turn(name, x, seed):
    rounded = read(name, x, seed)
    assert (rounded[x == 0] == 0).all()
    assert (np.sign(rounded) * np.sign(x) >= 0).all()


@both
def test_an_outlier_coarsens_only_its_own_group(name):
    x = normal(4 * GROUP)
    x[5] = 1000.0
    error = np.abs(read(name, x, 3) - x).reshape(4, GROUP).max(axis=1)
    assert error[1:].max() <= np.abs(x[GROUP:]).max() / LEVELS[name] * 1.001


def test_int4_puts_the_first_of_two_values_in_the_low_half_and_pads_with_8():
    x = np.zeros(257, np.float32)
    x[:3], x[256] = [7, -7, 3], -1
    one, given_variables = codec("int4"), variables_of([x])
    packed = tensor_file.read(one.encode([x], given_variables, seed=1).data, one._tensors(given_variables, (0,)))
    assert packed["0000"][:2].tolist() == [15 + 16 * 1, 11 + 16 * 8]
    assert packed["0000"][128] == 7 + 16 * 8
    assert read("int4", x, 1).tolist() == x.tolist()


@both
def test_the_largest_of_a_group_does_not_wrap_around_for_its_last_bit(name):
    """Scaled by a step rounded down, one in 65,536 would become 128 steps, which is -128 in a byte."""
    above = np.nextafter(np.float32(LEVELS[name]), np.float32(1000))
    x = np.full(1024 * GROUP, above)
    assert read(name, x, 5).min() > LEVELS[name] - 1
    assert read(name, -x, 5).max() < 1 - LEVELS[name]


@both
def test_a_step_is_never_less_than_the_largest_over_the_levels_next_to_any_step_of_17_bits(name):
    steps = np.arange(2**16, 2**17, dtype=np.float32) * np.float32(2.0**-16)  # all of them from 1 to 2
    largest = np.nextafter(steps * np.float32(LEVELS[name]), np.float32(1000))
    assert (_scale(largest, LEVELS[name]).astype(np.float64) * LEVELS[name] >= largest).all()


@both
@pytest.mark.parametrize("step", [1.0, 1 + 2.0**-16, 1.1999969482421875, 1.7, 3e-5])
def test_not_one_of_a_million_whole_steps_is_rounded_away(name, step):
    """A draw next to 1 and a quotient one bit too large would be enough."""
    levels = LEVELS[name]
    step = scales(name, np.full(GROUP, step * levels, np.float32))[0]
    x = np.resize(np.arange(-levels, levels + 1, dtype=np.float32), 2**20) * step
    assert np.array_equal(read(name, x, 9), x)


def test_values_are_rounded_within_the_bound_of_a_fixed_array():
    assert np.abs(read("int8", fixed(300), 0) - fixed(300)).max() < 50 / 64 / 127 * 1.001
