"""The agreed scaler: equal to one fitted on the pooled readings, and none from too few."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.aggregation.scaler import scaler_from
from dl_mqtt_clients.aggregation.sketch import BIN_WIDTH, RELATIVE_ERROR
from dl_mqtt_clients.data.nsl_kdd import load_nsl_kdd
from dl_mqtt_clients.data.synthesis import synthesise
from dl_mqtt_clients.errors import RefusedError
from dl_mqtt_clients.learning.backend import use_backend

use_backend()

from dl_mqtt_clients.learning.scaling import ScalerValues  # noqa: E402

ORDINARY = hnp.arrays(np.float32, (24, 3), elements=st.floats(-1e6, 1e6, width=32))


def by_node(x: np.ndarray, groups: np.ndarray) -> dict[str, FeatureStatistics]:
    return {str(group): FeatureStatistics.of(x[groups == group]) for group in np.unique(groups)}


def apply(scaler, x: np.ndarray) -> np.ndarray:
    return (x - scaler.offset) * scaler.scale


def assert_equals_pooled(x: np.ndarray, groups: np.ndarray) -> None:
    ours = scaler_from(by_node(x, groups), min_nodes=2)
    pooled = ScalerValues.standard(x)
    assert ours.unscaled == ()
    assert np.allclose(ours.offset, pooled.offset, rtol=1e-6, atol=1e-12)
    assert np.allclose(ours.scale, pooled.scale, rtol=1e-6)


def test_on_nsl_kdd_by_service_it_equals_the_pooled_one(nsl_kdd_files):
    train = load_nsl_kdd(nsl_kdd_files).train
    assert len(np.unique(train.groups)) > 20
    assert_equals_pooled(train.x, train.groups)


def test_on_synthetic_beth_by_host_it_equals_the_pooled_one():
    train = synthesise(rows=20_000).train
    assert len(np.unique(train.groups)) == 8
    assert_equals_pooled(train.x, train.groups)


@given(ORDINARY, hnp.arrays(np.int8, 24, elements=st.integers(0, 4)))
def test_however_readings_are_spread_over_nodes_the_scaler_is_the_pooled_one(x, groups):
    ours = scaler_from(by_node(x, groups), min_nodes=1)
    pooled = ScalerValues.standard(x)
    assert np.allclose(ours.offset, pooled.offset, rtol=1e-6, atol=1e-9 * np.abs(x).max())
    varies = x.std(axis=0) > 1e-6 * np.abs(x).max()  # else rounding decides whether it is a constant
    assert np.allclose(ours.scale[varies], pooled.scale[varies], rtol=1e-6)


@given(ORDINARY, st.permutations(range(4)), st.sampled_from(["standard", "minmax", "robust"]))
def test_the_same_nodes_give_the_same_bits_in_whatever_order_they_came(x, order, kind):
    parts = {f"n{i}": FeatureStatistics.of(x[i * 6 : i * 6 + 6]) for i in range(4)}
    one = scaler_from(parts, kind, min_nodes=1)
    other = scaler_from({f"n{i}": parts[f"n{i}"] for i in order}, kind, min_nodes=1)
    assert np.array_equal(one.offset, other.offset)
    assert np.array_equal(one.scale, other.scale)


def test_nor_where_rounding_depends_on_the_order():
    """1e20 and -1e20 cancel before or after 1 is added."""
    parts = {name: FeatureStatistics.of(np.full((1, 1), x)) for name, x in (("a", 1e20), ("b", 1.0), ("c", -1e20))}
    offsets = {
        float(scaler_from({n: parts[n] for n in order}, min_nodes=3).offset[0]) for order in ("abc", "acb", "cab")
    }
    assert len(offsets) == 1


@given(hnp.arrays(np.float32, (6, 3), elements=st.floats(width=32)), st.sampled_from(["standard", "minmax", "robust"]))
def test_any_readings_give_values_that_the_layer_takes(x, kind):
    scaler = scaler_from({"a": FeatureStatistics.of(x), "b": FeatureStatistics.of(np.ones((2, 3)))}, kind, min_nodes=1)
    values = ScalerValues(scaler.offset, scaler.scale)
    assert np.array_equal(values.scale, scaler.scale)


@pytest.mark.parametrize("kind", ["standard", "minmax", "robust"])
def test_a_constant_feature_keeps_scale_one(kind):
    x = np.array([[7.1, 1e9, 0], [7.1, 1e9 + 1e-7, 0], [7.1, 1e9, 0]])
    scaler = scaler_from({"a": FeatureStatistics.of(x)}, kind, min_nodes=1)
    assert scaler.scale.tolist() == [1, 1, 1]
    assert np.allclose(apply(scaler, x.astype(np.float32)), 0, atol=1e-6)


@given(hnp.arrays(np.float32, (30, 3), elements=st.floats(-1000, 1000, width=16)))
def test_minmax_maps_every_reading_into_zero_to_one(x):
    scaler = scaler_from({"a": FeatureStatistics.of(x)}, "minmax", min_nodes=1)
    low, high = FeatureStatistics.of(x).sketch.bounds()
    by_bounds = np.isclose(scaler.offset, low, rtol=1e-6) & np.isclose(scaler.scale * (high - low), 1, rtol=1e-5)
    scaled = apply(scaler, x)[:, by_bounds]
    assert scaled.min(initial=0) >= -1e-4
    assert scaled.max(initial=1) <= 1 + 1e-4


def test_minmax_is_too_wide_by_a_bin_at_most():
    x = np.random.default_rng(0).uniform(2.0, 9.0, size=(1000, 1))
    scaler = scaler_from({"a": FeatureStatistics.of(x)}, "minmax", min_nodes=1)
    low, high = float(scaler.offset[0]), float(scaler.offset[0] + 1 / scaler.scale[0])
    assert x.min() * (1 - BIN_WIDTH) <= low <= x.min()
    assert x.max() <= high <= x.max() * (1 + BIN_WIDTH) + 1e-5


def test_robust_is_the_median_and_the_quartiles_to_the_sketchs_error():
    x = np.random.default_rng(0).lognormal(3.0, 1.0, size=(4000, 1))
    scaler = scaler_from(
        {"a": FeatureStatistics.of(x[:1000]), "b": FeatureStatistics.of(x[1000:])}, "robust", min_nodes=2
    )
    low, middle, high = np.quantile(x, [0.25, 0.5, 0.75], method="inverted_cdf")
    assert abs(scaler.offset[0] - middle) <= RELATIVE_ERROR * middle * 1.0001
    distance = 1.3489795 / float(scaler.scale[0])
    assert abs(distance - (high - low)) <= RELATIVE_ERROR * (low + high) * 1.0001


def test_robust_does_not_mind_a_few_huge_readings():
    x = np.random.default_rng(0).normal(0.0, 1.0, size=(4000, 1))
    x[:20] = 1e6
    parts = {"a": FeatureStatistics.of(x)}
    assert scaler_from(parts, "robust", min_nodes=1).scale[0] == pytest.approx(1.0, rel=0.06)
    assert scaler_from(parts, "standard", min_nodes=1).scale[0] < 1e-4


@pytest.mark.parametrize("kind", ["minmax", "robust"])
def test_where_a_sketch_sees_no_spread_the_exact_sums_do(kind):
    """A time stamp: all readings share a bin. A rare flag: all quartiles are 0."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(1.7e9, 1000.0, 5000), rng.random(5000) < 0.01], axis=1)
    scaler = scaler_from({"a": FeatureStatistics.of(x)}, kind, min_nodes=1)
    assert scaler.scale[0] == pytest.approx(1 / x[:, 0].std(), rel=1e-5)
    expected = 1.0 if kind == "minmax" else 1 / x[:, 1].std()
    assert scaler.scale[1] == pytest.approx(expected, rel=1e-5)


def test_missing_values_do_not_count():
    x = np.array([[1.0, 5.0], [math.nan, 6.0], [3.0, math.inf], [math.nan, 7.0]])
    scaler = scaler_from({"a": FeatureStatistics.of(x)}, min_nodes=1)
    assert scaler.offset.tolist() == [2.0, 6.0]


# ---- too few ----


def test_fewer_nodes_than_agreed_are_refused():
    parts = {"a": FeatureStatistics.of(np.ones((5, 2))), "b": FeatureStatistics.empty(2)}
    with pytest.raises(RefusedError, match=r"at least 2 nodes. Received: 1"):
        scaler_from(parts, min_nodes=2)
    with pytest.raises(RefusedError, match=r"at least 1 nodes. Received: 0"):
        scaler_from({}, min_nodes=0)


def test_a_feature_of_fewer_nodes_than_agreed_stays_as_it_is():
    """Else its offset would be one node's own mean."""
    shared = np.array([[1.0, math.nan], [3.0, math.nan]])
    alone = np.array([[5.0, 40.0], [7.0, 60.0]])
    scaler = scaler_from({"a": FeatureStatistics.of(shared), "b": FeatureStatistics.of(alone)}, min_nodes=2)
    assert scaler.unscaled == (1,)
    assert scaler.offset.tolist() == [4.0, 0.0]
    assert scaler.scale[1] == 1.0
