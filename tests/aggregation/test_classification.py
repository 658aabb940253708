"""AUROC, average precision and confusion counts of summed histograms, against exact renderings on the pooled scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.classification import auroc, average_precision, confusion
from dl_mqtt_clients.aggregation.histogram import BINS, BINS_AN_OCTAVE, bin_of, count, quantile

inside = st.floats(2.0**-39, 2.0**23) | st.sampled_from([1.0, 1.001, 1.002, 1.003, 1.01])  # the latter share bins
scores = hnp.arrays(np.float64, st.integers(1, 30), elements=inside)
SLACK = 1e-9


def exact_auroc(normal, anomalous) -> float:
    return (anomalous[:, None] > normal).mean() + 0.5 * (anomalous[:, None] == normal).mean()


def exact_average_precision(normal, anomalous) -> float:
    """As defined: each anomalous reading's precision at a threshold at its own score, averaged."""
    at = [(anomalous >= s).sum() / ((anomalous >= s).sum() + (normal >= s).sum()) for s in anomalous]
    return float(np.mean(at))


@given(scores, scores)
def test_the_pooled_auroc_is_within_the_bounds(normal, anomalous):
    found = auroc(count(normal), count(anomalous))
    assert found.low - SLACK <= exact_auroc(normal, anomalous) <= found.high + SLACK
    assert found.low - SLACK <= found.value <= found.high + SLACK


@given(scores, scores)
def test_the_pooled_average_precision_is_within_the_bounds(normal, anomalous):
    found = average_precision(count(normal), count(anomalous))
    assert found.low - SLACK <= exact_average_precision(normal, anomalous) <= found.high + SLACK
    assert found.low - SLACK <= found.value <= found.high + SLACK
    assert found.high <= 1 + SLACK


@pytest.mark.parametrize("figure", [auroc, average_precision])
def test_the_bounds_are_narrow_on_scores_of_an_ordinary_detector(figure):
    rng = np.random.default_rng(0)
    normal, anomalous = rng.lognormal(0, 1, 20_000), rng.lognormal(2, 1, 500)
    found = figure(count(normal), count(anomalous))
    exact = exact_auroc if figure is auroc else exact_average_precision
    assert found.high - found.low < 0.02
    assert found.value == pytest.approx(exact(normal, anomalous), abs=0.0005)


@pytest.mark.parametrize("figure", [auroc, average_precision])
def test_what_nodes_count_apart_gives_the_same_as_counted_together(figure):
    rng = np.random.default_rng(0)
    normal, anomalous = rng.lognormal(0, 1, 300), rng.lognormal(1, 1, 100)
    apart = figure(count(normal[:50]) + count(normal[50:]), count(anomalous[:70]) + count(anomalous[70:]))
    assert apart == figure(count(normal), count(anomalous))


def test_separate_classes_are_told_apart_without_doubt():
    normal, anomalous = count(np.array([1.0, 2.0])), count(np.array([3.0, 4.0]))
    for figure in (auroc, average_precision):
        found = figure(normal, anomalous)
        assert (found.low, found.value, found.high) == (1.0, 1.0, 1.0)


def test_all_in_one_bin_says_nothing():
    normal, anomalous = count(np.ones(10)), count(np.ones(10))
    assert (auroc(normal, anomalous).low, auroc(normal, anomalous).high) == (0.0, 1.0)
    found = average_precision(normal, anomalous)
    assert found.high == 1.0
    assert found.value == pytest.approx(0.5, abs=0.05)
    assert found.low < np.mean([j / (j + 10) for j in range(1, 11)])  # all normal ones above


def test_without_a_class_there_is_no_figure():
    some, none = count(np.ones(3)), count(np.zeros(0))
    assert auroc(some, none) is None
    assert auroc(none, some) is None
    assert average_precision(some, none) is None
    assert average_precision(none, some).low == 1.0


@given(scores, scores, inside)
def test_confusion_counts_are_exact_up_to_the_thresholds_bin(normal, anomalous, threshold):
    found = confusion(count(normal), count(anomalous), threshold=threshold)
    assert abs(found.true_positives - (anomalous > threshold).sum()) <= found.undecided_anomalous
    assert abs(found.false_positives - (normal > threshold).sum()) <= found.undecided_normal
    assert found.true_positives + found.false_negatives == len(anomalous)
    assert found.false_positives + found.true_negatives == len(normal)
    assert found.undecided_normal == (bin_of(normal) == bin_of(np.array([threshold]))).sum()
    assert min(found.true_negatives, found.false_negatives, found.true_positives, found.false_positives) >= 0


@given(scores, st.floats(0.01, 0.99))
def test_at_a_quantile_of_the_histogram_as_many_have_a_verdict_as_were_asked(normal, q):
    counts = count(normal)
    found = confusion(counts, np.zeros(BINS, np.int64), threshold=quantile(counts, q))
    near = counts[max(bin_of(np.array([quantile(counts, q)]))[0] - 1, 0) :][:2].max()  # its edge may be the next bin's
    assert abs(found.false_positives - (1 - q) * len(normal)) <= max(1.0, near)


def test_the_thresholds_bin_is_divided_where_the_threshold_lies():
    """All readings share one bin, spread evenly over it in their logarithm."""
    normal = 2.0 ** (np.linspace(0.01, 0.99, 1000) / BINS_AN_OCTAVE)
    for above in (0.25, 0.5, 0.9):
        found = confusion(count(normal), count(normal), threshold=2.0 ** ((1 - above) / BINS_AN_OCTAVE))
        assert found.undecided_normal == 1000
        assert found.false_positives == pytest.approx(1000 * above, abs=15)
        assert found.true_positives == found.false_positives


def test_shares_of_the_counts():
    normal, anomalous = count(np.array([1.0, 1.0, 1.0, 8.0])), count(np.array([2.0, 8.0, 8.0]))
    found = confusion(normal, anomalous, threshold=4.0)
    assert (found.true_positives, found.false_positives, found.false_negatives, found.true_negatives) == (2, 1, 1, 3)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.false_alert_rate == 0.25
    nothing = confusion(count(np.zeros(0)), count(np.zeros(0)), threshold=4.0)
    assert (nothing.precision, nothing.recall, nothing.false_alert_rate) == (None, None, None)


def test_at_the_ends_of_the_range_scores_count_as_zero_or_endless():
    endless, vanishing = count(np.array([np.inf, np.nan])), count(np.array([0.0, 1e-20]))
    assert confusion(vanishing, endless, threshold=0.0).false_positives == 0
    assert confusion(vanishing, endless, threshold=2.0**24).true_positives == 2


def test_the_largest_histograms_do_not_overflow():
    many = np.zeros(BINS, dtype=np.int64)
    many[5] = 2**40 * 2000
    for figure in (auroc, average_precision):
        found = figure(many, np.roll(many, 1))
        assert (found.low, found.high) == (1.0, 1.0)
        assert figure(np.roll(many, 1), many).low >= 0
