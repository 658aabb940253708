"""Drift: none between equal streams, strong after a change, the same whoever counted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation import histogram
from dl_mqtt_clients.aggregation.drift import MIN_READINGS, MODERATE, STRONG, drift, stability_index
from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics

counts = hnp.arrays(np.int64, 12, elements=st.integers(0, 1000))


def scores(rng, n: int, factor: float = 1.0) -> np.ndarray:
    return histogram.count(rng.lognormal(0.0, 1.0, n) * factor)


def feature(x: np.ndarray) -> np.ndarray:
    return FeatureStatistics.of(x.reshape(-1, 1)).sketch.dense(0)


@given(counts, counts)
def test_the_index_is_never_negative_and_the_same_both_ways(then, now):
    index = stability_index(then, now)
    if then.any() and now.any():
        assert index >= 0
        assert math.isfinite(index)
        assert stability_index(now, then) == pytest.approx(index, abs=1e-12)
    else:
        assert index is None


@given(counts)
def test_equal_histograms_have_not_drifted(then):
    assert stability_index(then, then) in (None, pytest.approx(0, abs=1e-12))


def test_two_groups_are_computed_as_by_hand():
    found = stability_index(np.array([60, 40]), np.array([80, 20]))
    p, q = 60.5 / 101, 80.5 / 101
    assert found == pytest.approx((p - q) * math.log(p / q) + (q - p) * math.log((1 - p) / (1 - q)))


@pytest.mark.parametrize("seed", range(20))
def test_without_drift_the_word_is_none(seed):
    rng = np.random.default_rng(seed)
    word, index = drift(scores(rng, 2000), scores(rng, 2000))
    assert word == "none"
    assert index < 0.03


def test_without_drift_the_index_is_as_large_as_the_paper_says():
    """(1/n + 1/m)·(groups - 1), on average."""
    rng = np.random.default_rng(0)
    found = [stability_index(scores(rng, 1000), scores(rng, 500)) for _ in range(300)]
    assert np.mean(found) == pytest.approx((1 / 1000 + 1 / 500) * 9, rel=0.15)


def test_larger_scores_are_drift():
    rng = np.random.default_rng(0)
    assert drift(scores(rng, 5000), scores(rng, 5000, 1.4))[0] == "moderate"
    word, index = drift(scores(rng, 5000), scores(rng, 5000, 2.0))
    assert (word, index > STRONG) == ("strong", True)


def test_a_value_never_seen_before_is_drift():
    """With the deciles of the former histogram alone, all of it would lie in one group."""
    constant = feature(np.full(1000, 5.0))
    assert drift(constant, feature(np.full(1000, 5.5)))[0] == "strong"
    assert drift(constant, feature(np.full(1000, -5.0)))[0] == "strong"
    assert drift(constant, constant) == ("none", 0.0)


def test_a_flag_that_is_set_more_often_is_drift():
    then, now = np.zeros(1000), np.zeros(1000)
    then[:100], now[:400] = 1, 1
    word, index = drift(feature(then), feature(now))
    assert word == "strong"
    assert index == pytest.approx(0.3 * math.log(4) + 0.3 * math.log(1.5), rel=0.02)


def test_few_readings_say_nothing():
    rng = np.random.default_rng(0)
    assert drift(scores(rng, MIN_READINGS - 1), scores(rng, 5000, 3.0))[0] == "unknown"
    assert drift(scores(rng, 5000), scores(rng, MIN_READINGS - 1, 3.0))[0] == "unknown"
    assert drift(scores(rng, 0), scores(rng, 5000)) == ("unknown", None)


@given(hnp.arrays(np.float64, 40, elements=st.floats(1e-3, 1e3)), st.integers(0, 40))
def test_the_sum_of_nodes_drifts_as_the_pooled_readings_do(x, cut):
    then = histogram.count(np.linspace(0.1, 10, 40))
    apart = histogram.count(x[:cut]) + histogram.count(x[cut:])
    assert stability_index(then, apart) == stability_index(then, histogram.count(x))


def test_the_largest_histograms_do_not_overflow():
    then = np.array([2**40 * 2000, 1], np.int64)
    assert math.isfinite(stability_index(then, then[::-1]))


def test_histograms_of_other_bins_are_refused():
    with pytest.raises(ValueError, match=r"expected two histograms of the same bins. Received: \(3,\) and \(4,\)"):
        stability_index(np.ones(3, np.int64), np.ones(4, np.int64))


def test_the_thresholds_are_the_conventional_ones():
    assert (MODERATE, STRONG) == (0.1, 0.25)
