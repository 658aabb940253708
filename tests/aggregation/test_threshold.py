"""The agreed threshold: near the pooled quantile, alerts as often as asked, and stable over many rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.histogram import RELATIVE_ERROR, count
from dl_mqtt_clients.aggregation.threshold import Threshold

scores = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(2.0**-39, 2.0**23))
ROUNDS = 50
RATE = 0.01


@given(scores, st.floats(0, 1))
def test_the_alert_rate_is_as_asked_to_within_the_stated_error(normal, rate):
    found = Threshold.at_alert_rate(count(normal), rate)
    alerts = (normal > found.value).mean()
    assert abs(alerts - rate) <= found.alert_rate_error + 1 / len(normal)


@given(scores, st.floats(0, 1))
def test_the_threshold_is_near_the_pooled_quantile(normal, q):
    found = Threshold.at_quantile(count(normal), q)
    near = [np.quantile(normal, np.clip(p, 0, 1), method="inverted_cdf") for p in (q - 1e-9, q, q + 1e-9)]
    assert min(abs(found.value / exact - 1) for exact in near) <= RELATIVE_ERROR + 1e-12


@given(scores, st.floats(0, 1))
def test_a_quantile_and_an_alert_rate_are_two_words_for_one_thing(normal, rate):
    assert Threshold.at_alert_rate(count(normal), rate).value == Threshold.at_quantile(count(normal), 1 - rate).value


@pytest.mark.parametrize("rate", [0.01, 0.05])
@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_on_new_readings_alerts_come_as_often_as_asked(rate, shape):
    """Within 10% of the rate, from a histogram of eight nodes of unlike scale; sampling noise is made small, 2%."""
    rng = np.random.default_rng(0)
    nodes = [rng.lognormal(mean, shape, 100_000) for mean in np.linspace(-1, 1, 8)]
    counts = sum(count(node[:50_000]) for node in nodes)
    fresh = np.concatenate([node[50_000:] for node in nodes])
    found = Threshold.at_alert_rate(counts, rate)
    assert (fresh > found.value).mean() == pytest.approx(rate, rel=0.10)
    assert found.alert_rate_error < 0.1 * rate + 1e-3


def alert_rate_after(rounds: int, *, is_filtered: bool) -> float:
    """Unchanged data. Each version scores a little differently; its threshold is of that version's histograms."""
    rng = np.random.default_rng(0)
    readings = rng.lognormal(0.0, 1.0, size=(5, 20_000))  # a node a row
    kept = np.ones(readings.shape, bool)
    rate = 0.0
    for _ in range(rounds):
        found = readings * rng.lognormal(0.0, 0.3) * rng.lognormal(0.0, 0.01, size=readings.shape)
        counts = sum(count(node[mask]) for node, mask in zip(found, kept, strict=True))
        threshold = Threshold.at_alert_rate(counts, RATE).value
        rate = float((found > threshold).mean())
        if is_filtered:
            kept &= found <= threshold
    return rate


@pytest.mark.parametrize("rounds", [1, 10, ROUNDS])
def test_fifty_rounds_on_unchanged_data_keep_the_alert_rate(rounds):
    assert alert_rate_after(rounds, is_filtered=False) == pytest.approx(RATE, rel=0.10)


def test_histograms_filtered_by_the_verdict_would_not():
    """What the test above guards against: each threshold is made of what the last one left."""
    assert alert_rate_after(ROUNDS, is_filtered=True) > 0.30


def test_without_readings_there_is_no_threshold():
    assert Threshold.at_quantile(count(np.zeros(0)), 0.99) is None
    assert Threshold.at_alert_rate(count(np.zeros(0)), 0.01) is None


def test_equal_scores_cannot_be_divided_and_the_error_says_so():
    assert Threshold.at_alert_rate(count(np.full(100, 3.0)), 0.01).alert_rate_error == 1.0
