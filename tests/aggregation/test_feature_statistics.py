"""Feature statistics: sums over nodes equal those of the pooled readings; hostile ones are refused."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.aggregation.sketch import (
    BIN_WIDTH,
    BINS_AN_OCTAVE,
    RELATIVE_ERROR,
    Sketch,
    bin_of,
    lower_edge,
    middle,
    upper_edge,
)
from dl_mqtt_clients.wire.feature_sums import LAST_BIN, FeatureSums

FEATURES = 3
SLACK = 1e-12  # rounding of log2 and exp2 at the very edge of a bin
ordinary = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, -1.0])
any_float32 = st.floats(width=32)


def tables(elements=ordinary, smallest=0):
    return hnp.arrays(np.float64, st.tuples(st.integers(smallest, 30), st.just(FEATURES)), elements=elements)


def assert_same(one: FeatureStatistics, other: FeatureStatistics, magnitude: float) -> None:
    """Counts and sketch exactly; moments to 1e-12 of the readings' magnitude."""
    assert np.array_equal(one.count, other.count)
    assert np.array_equal(one.missing, other.missing)
    assert np.array_equal(one.sketch.keys, other.sketch.keys)
    assert np.array_equal(one.sketch.counts, other.sketch.counts)
    assert np.allclose(one.mean, other.mean, rtol=1e-12, atol=1e-12 * magnitude)
    assert np.allclose(one.m2, other.m2, rtol=1e-12, atol=1e-12 * magnitude**2)


def largest_of(*parts: np.ndarray) -> float:
    return max((float(np.abs(part).max(initial=0.0)) for part in parts), default=0.0)


# ---- laws ----


@given(tables(), tables())
def test_two_nodes_together_are_one_node_with_both_their_readings(a, b):
    both = FeatureStatistics.of(a) + FeatureStatistics.of(b)
    assert_same(both, FeatureStatistics.of(np.concatenate([a, b])), largest_of(a, b))


@given(tables(), tables())
def test_the_order_of_two_does_not_matter_bit_by_bit(a, b):
    one, other = FeatureStatistics.of(a), FeatureStatistics.of(b)
    assert np.array_equal((one + other).mean, (other + one).mean)
    assert np.allclose((one + other).m2, (other + one).m2, rtol=1e-15, atol=0)
    assert_same(one + other, other + one, largest_of(a, b))


@given(tables(), tables(), tables())
def test_the_order_of_many_does_not_matter(a, b, c):
    one, two, three = (FeatureStatistics.of(x) for x in (a, b, c))
    assert_same((one + two) + three, one + (two + three), largest_of(a, b, c))


@given(tables(any_float32))
def test_nothing_added_changes_nothing(x):
    part = FeatureStatistics.of(x)
    again = part + FeatureStatistics.empty(FEATURES)
    assert np.allclose(again.mean, part.mean, rtol=1e-15, atol=0)
    assert np.array_equal(again.m2, part.m2)
    assert np.array_equal(again.sketch.counts, part.sketch.counts)


@given(tables(smallest=1))
def test_mean_and_variance_are_those_of_numpy(x):
    part = FeatureStatistics.of(x)
    assert np.allclose(part.mean, x.mean(axis=0), rtol=1e-12, atol=1e-12 * largest_of(x))
    assert np.allclose(part.variance, x.var(axis=0), rtol=1e-9, atol=1e-12 * largest_of(x) ** 2)


def test_a_large_offset_costs_no_digits_of_the_variance():
    """Inode numbers, time stamps: the textbook formula Σx² - n·mean² has no right digit here."""
    x = np.random.default_rng(0).normal(4026531840.0, 2.0, size=(8, 1000, 1))
    total = sum((FeatureStatistics.of(part) for part in x[1:]), start=FeatureStatistics.of(x[0]))
    assert total.variance == pytest.approx(x.reshape(-1, 1).var(axis=0), rel=1e-9)


# ---- what is not a number ----


def test_what_is_no_finite_number_is_counted_apart():
    x = np.array([[1.0, math.nan], [3.0, math.inf], [math.nan, 1e300]])
    part = FeatureStatistics.of(x)
    assert part.count.tolist() == [2, 0]
    assert part.missing.tolist() == [1, 3]
    assert part.mean.tolist() == [2.0, 0.0]
    assert part.m2.tolist() == [2.0, 0.0]


@given(tables(any_float32))
def test_any_readings_of_32_bits_give_finite_sums_that_travel(x):
    part = FeatureStatistics.of(x)
    assert np.isfinite(part.mean).all()
    assert np.isfinite(part.m2).all()
    text = msgspec.json.encode(part.to_message())
    again = FeatureStatistics.from_message(
        msgspec.json.decode(text, type=tuple[FeatureSums, ...]), features=FEATURES, max_readings=len(x)
    )
    assert np.array_equal(again.mean, part.mean)
    assert np.array_equal(again.m2, part.m2)
    assert np.array_equal(again.sketch.keys, part.sketch.keys)
    assert np.array_equal(again.sketch.counts, part.sketch.counts)


def test_the_message_has_neither_smallest_nor_largest_reading():
    x = np.array([[3.14159], [2.71828], [1.61803]])
    text = msgspec.json.encode(FeatureStatistics.of(x).to_message()).decode()
    assert not any(str(value) in text for value in x.ravel())


# ---- sketch ----


@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-3e38, 3e38)))
def test_a_value_lies_between_the_edges_of_its_bin(x):
    number = bin_of(x)
    tiny = np.abs(x) <= 2.0**-126
    slack = SLACK * np.abs(x) + np.where(tiny, 2.0**-126, 0.0)
    assert np.all(lower_edge(number) <= x + slack)
    assert np.all(x <= upper_edge(number) + slack)
    assert np.all(np.abs(middle(number) - x) <= RELATIVE_ERROR * np.abs(x) + slack)


def test_the_bins_cover_the_numbers_of_32_bits_and_no_more():
    largest = float(np.finfo(np.float32).max)
    assert bin_of(np.array([-largest, 0.0, largest])).tolist() == [-LAST_BIN, 0, LAST_BIN]
    assert upper_edge(np.array([LAST_BIN])) == 2.0**128
    assert LAST_BIN == (128 + 126) * BINS_AN_OCTAVE


def test_flags_have_exact_bounds():
    """1 is the upper edge of its bin, so that min-max of a flag is what one expects."""
    low, high = Sketch.of(np.array([[0.0], [1.0]]), np.ones((2, 1), bool)).bounds()
    assert (low[0], high[0]) == (0.0, 1.0)


@given(tables(smallest=1), st.floats(0, 1))
def test_a_quantile_is_within_two_percent_of_the_exact_one(x, q):
    found = FeatureStatistics.of(x).sketch.quantile(q)
    rank = max(math.ceil(q * len(x)), 1)
    exact = np.sort(x, axis=0)[rank - 1]
    assert np.all(np.abs(found - exact) <= (RELATIVE_ERROR + SLACK) * np.abs(exact) + 2.0**-126)


@given(tables(smallest=1))
def test_the_bounds_hold_every_reading_and_little_more(x):
    low, high = FeatureStatistics.of(x).sketch.bounds()
    smallest, largest = x.min(axis=0), x.max(axis=0)
    slack = SLACK * np.abs(x).max(axis=0) + 2.0**-126
    assert np.all(low <= smallest + slack)
    assert np.all(high >= largest - slack)
    assert np.all(smallest - low <= BIN_WIDTH * np.abs(smallest) + slack)
    assert np.all(high - largest <= BIN_WIDTH * np.abs(largest) + slack)


def test_one_feature_of_the_sketch_can_be_looked_at():
    x = np.array([[1.0, -2.0], [1.0, 5.0], [4.0, math.nan]])
    sketch = FeatureStatistics.of(x).sketch
    numbers, counts = sketch.of_feature(0)
    assert upper_edge(numbers).tolist() == [1.0, 4.0]
    assert counts.tolist() == [2, 1]
    assert sketch.dense(1).sum() == 2
    assert np.flatnonzero(sketch.dense(1)).tolist() == (bin_of(np.array([-2.0, 5.0])) + LAST_BIN).tolist()


def test_the_quantile_of_a_feature_without_values_is_zero():
    x = np.array([[math.nan, 7.0, math.nan]])
    assert FeatureStatistics.of(x).sketch.quantile(0.5).tolist()[::2] == [0.0, 0.0]
    assert FeatureStatistics.empty(2).sketch.quantile(0.5).tolist() == [0.0, 0.0]


# ---- hostile ----


def sums(**changes) -> FeatureSums:
    """Of the readings 1, 1, 4."""
    (right,) = FeatureStatistics.of([[1.0], [1.0], [4.0]]).to_message()
    return msgspec.structs.replace(right, **changes)


BINS = sums().bins


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (sums(count=2), "add up to 2"),
        (sums(count=2**41, counts=(2**41 - 1, 1)), "at most 1099511627776 readings"),
        (sums(missing=2**52), "at most"),
        (sums(mean=math.nan), "finite mean"),
        (sums(mean=math.inf), "finite mean"),
        (sums(m2=math.inf), "finite mean"),
        (sums(m2=-1.0), "m2 ≥ 0"),
        (sums(mean=4.5), "within its bins"),
        (sums(mean=0.5), "within its bins"),
        (sums(m2=1e9), "within its bins"),
        (sums(counts=(3,)), "as many counts as bins"),
        (sums(counts=(4, -1)), "counts above 0"),
        (sums(bins=BINS[::-1]), "rising bins"),
        (sums(bins=(BINS[0], BINS[0])), "rising bins"),
        (sums(bins=(BINS[0], LAST_BIN + 1)), "rising bins"),
        (sums(bins=(-LAST_BIN - 1, BINS[0])), "rising bins"),
        (FeatureSums(mean=3.0), "within its bins"),
        (FeatureSums(m2=3.0), "within its bins"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hostile_sums_are_a_value_error_that_names_the_feature(hostile, reason):
    with pytest.raises(ValueError, match=rf"^feature statistics: feature 1: .*{reason}"):
        FeatureStatistics.from_message((sums(), hostile), features=2)


def test_sums_of_other_features_are_refused():
    with pytest.raises(ValueError, match=r"expected 2 features. Received: 1"):
        FeatureStatistics.from_message((sums(),), features=2)
    with pytest.raises(ValueError, match=r"expected the same features. Received: 1 and 2"):
        FeatureStatistics.empty(1) + FeatureStatistics.empty(2)


def test_more_readings_than_a_node_can_hold_are_refused():
    assert FeatureStatistics.from_message((sums(),), features=1, max_readings=3).count.tolist() == [3]
    with pytest.raises(ValueError, match=r"expected at most 2 readings. Received: 3"):
        FeatureStatistics.from_message((sums(),), features=1, max_readings=2)


@pytest.mark.parametrize(
    "text",
    [
        '{"count": -1}',
        '{"m2": -1e-9}',
        '{"mean": null}',
        '{"bins": [4065]}',
        '{"bins": [-4065]}',
        '{"counts": [0]}',
        '{"bins": [0.5]}',
        '{"bins": [' + "0," * (2 * LAST_BIN + 1) + "0]}",
    ],
    ids=lambda text: text[:20],
)
def test_sums_out_of_range_do_not_decode(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=FeatureSums)


def test_readings_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"expected readings \[n, features\]. Received: shape \(3,\)"):
        FeatureStatistics.of(np.zeros(3))
