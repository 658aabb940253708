"""Histograms: sums add up, quantile and AUROC are within their bound, hostile ones are refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.histogram import (
    BINS,
    MAX_COUNT,
    RELATIVE_ERROR,
    auroc,
    bin_of,
    count,
    from_message,
    lower_edges,
    quantile,
    to_message,
)
from dl_mqtt_clients.wire.messages import Histogram

SMALLEST, LARGEST = 2.0**-40, 2.0**24 * 0.999
inside = st.floats(SMALLEST, LARGEST)
scores_inside = hnp.arrays(np.float64, st.integers(1, 60), elements=inside)
SLACK = 1e-12  # rounding of log2 and exp2 at the very edge of a bin


def test_a_bin_is_two_percent_wide():
    assert pytest.approx(0.0219, abs=1e-4) == RELATIVE_ERROR
    edges = lower_edges()
    assert edges.shape == (BINS,)
    assert edges[0] == 0
    assert edges[1] == 2.0**-40
    assert edges[-1] == 2.0**24
    assert np.allclose(edges[2:] / edges[1:-1] - 1, RELATIVE_ERROR, rtol=1e-9)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (0.0, 0),
        (2.0**-41, 0),
        (2.0**-40, 1),
        (1.0, 40 * 32 + 1),
        (2.0, 41 * 32 + 1),
        (2.0**24, BINS - 1),
        (1e300, BINS - 1),
        (math.inf, BINS - 1),
        (math.nan, BINS - 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_score_has_its_bin(score, expected, dtype):
    with np.errstate(over="ignore"):
        scores = np.array([score]).astype(dtype)
    assert bin_of(scores).tolist() == [expected]


@given(scores_inside)
def test_a_score_lies_between_the_edges_of_its_bin(scores):
    edges, places = lower_edges(), bin_of(scores)
    assert np.all(edges[places] <= scores * (1 + SLACK))
    assert np.all(scores <= edges[places + 1] * (1 + SLACK))


@given(hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 1e6, width=32)))
def test_float32_scores_are_counted_as_the_same_numbers_in_float64(scores):
    assert np.array_equal(count(scores), count(scores.astype(np.float64)))


@given(scores_inside, scores_inside)
def test_counts_add_up_over_nodes(one, other):
    assert np.array_equal(count(one) + count(other), count(np.concatenate([one, other])))


def test_nothing_counted_is_a_histogram_too():
    empty = count(np.zeros(0))
    assert empty.shape == (BINS,)
    assert not empty.any()
    assert quantile(empty, 0.5) is None
    assert auroc(empty, count(np.ones(3))) is None
    assert auroc(count(np.ones(3)), empty) is None


@given(scores_inside, st.floats(0, 1))
def test_the_quantile_is_within_the_relative_error_of_the_exact_one(scores, q):
    """NumPy's inverted CDF; at a step of it (q·n whole up to rounding) either side is right."""
    found = quantile(count(scores), q)
    near = [np.quantile(scores, np.clip(p, 0, 1), method="inverted_cdf") for p in (q - 1e-9, q, q + 1e-9)]
    assert min(abs(found / exact - 1) for exact in near) <= RELATIVE_ERROR + SLACK


@given(scores_inside)
def test_the_quantile_grows_with_the_share(scores):
    found = [quantile(count(scores), q) for q in np.linspace(0, 1, 11)]
    assert found == sorted(found)


@pytest.mark.parametrize("q", [0.0, 0.25, 0.99, 1.0])
def test_the_quantile_of_equal_scores_is_that_score(q):
    assert quantile(count(np.full(7, 3.0)), q) == pytest.approx(3.0, rel=RELATIVE_ERROR)


def test_the_quantile_of_vanishing_and_of_endless_scores_is_an_end_of_the_range():
    assert quantile(count(np.zeros(5)), 0.9) == 0.0
    assert quantile(count(np.full(5, math.inf)), 0.9) == 2.0**24


@given(scores_inside, scores_inside)
def test_the_auroc_is_exact_up_to_pairs_that_share_a_bin(normal, anomalous):
    found = auroc(count(normal), count(anomalous))
    wins = (anomalous[:, None] > normal).mean() + 0.5 * (anomalous[:, None] == normal).mean()
    shared = (bin_of(anomalous)[:, None] == bin_of(normal)).mean()
    assert abs(found - wins) <= 0.5 * shared + SLACK


@given(scores_inside, scores_inside)
def test_exchanging_the_classes_mirrors_the_auroc(normal, anomalous):
    one, other = count(normal), count(anomalous)
    assert auroc(one, other) == pytest.approx(1 - auroc(other, one))


def test_the_auroc_of_separate_classes_is_one_and_of_equal_ones_a_half():
    assert auroc(count(np.array([1.0, 2.0])), count(np.array([3.0, 4.0]))) == 1.0
    assert auroc(count(np.array([1.0, 2.0])), count(np.array([2.0, 1.0]))) == 0.5


def test_the_auroc_of_the_largest_histograms_does_not_overflow():
    many = np.zeros(BINS, dtype=np.int64)
    many[5] = 2**52
    assert auroc(many, np.roll(many, 1)) == 1.0
    assert auroc(np.roll(many, 1), many) == 0.0


@given(hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(0) | st.just(math.nan)))
def test_a_histogram_comes_back_from_its_message(scores):
    counts = count(scores)
    message = to_message(counts)
    assert np.array_equal(from_message(message), counts)
    assert all(n > 0 for n in message.counts)


@pytest.mark.parametrize(
    "hostile",
    [
        Histogram(bins=(BINS,), counts=(1,)),
        Histogram(bins=(2**53,), counts=(1,)),
        Histogram(bins=(1, 1), counts=(1, 1)),
        Histogram(bins=(1, 2), counts=(1,)),
        Histogram(bins=(), counts=(1,)),
        Histogram(bins=(1,), counts=()),
        Histogram(bins=(1,), counts=(2**53,)),
        Histogram(bins=tuple(range(600)), counts=(2**31,) * 600),
    ],
    ids=lambda h: str(h)[:40],
)
def test_a_hostile_histogram_is_a_value_error(hostile):
    with pytest.raises(ValueError, match="histogram: expected"):
        from_message(hostile)


def test_two_thousand_of_the_largest_histograms_add_up():
    largest = from_message(Histogram(bins=(7,), counts=(MAX_COUNT,)))
    assert int((largest * 2000).sum()) == MAX_COUNT * 2000
