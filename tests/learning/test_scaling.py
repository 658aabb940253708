import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.scaling import ScalerValues, Scaling

tables = arrays(
    np.float64,
    array_shapes(min_dims=2, max_dims=2, max_side=8),
    elements=st.floats(-1e30, 1e30, allow_nan=False),
)


def test_the_layer_uses_weights_that_are_set_later(rng):
    layer, x = Scaling(), rng.normal(size=(5, 3)).astype("float32")
    assert np.array_equal(layer(x), x)
    layer.set_weights([np.array([1, 2, 3], "float32"), np.array([2, 0.5, 1], "float32")])
    assert np.allclose(layer(x), (x - [1, 2, 3]) * [2, 0.5, 1])
    assert layer.trainable_variables == []


def test_the_values_compute_what_the_layer_does(readings):
    values, layer = ScalerValues.standard(readings), Scaling()
    layer.build((None, 6))
    layer.set_weights([values.offset, values.scale])
    assert np.array_equal(values.apply(readings), keras.ops.convert_to_numpy(layer(readings)))


def test_standard_gives_mean_zero_and_variance_one(readings):
    scaled = ScalerValues.standard(readings).apply(readings)
    assert np.allclose(scaled.mean(axis=0), 0, atol=1e-5)
    assert np.allclose(scaled.std(axis=0), 1, atol=1e-5)


def test_a_constant_feature_keeps_scale_one():
    x = np.array([[7.1, 1e9, 0], [7.1, 1e9 + 1e-7, 0], [7.1, 1e9, 0]])
    for values in (ScalerValues.standard(x), ScalerValues.minmax(x)):
        assert np.array_equal(values.scale, [1, 1, 1])
        assert np.allclose(values.apply(x), 0)


@given(tables)
def test_any_finite_table_gives_a_usable_scaler(x):
    for values in (ScalerValues.standard(x), ScalerValues.minmax(x)):
        assert np.isfinite(values.offset).all()
        assert np.isfinite(values.scale).all()
        assert (values.scale > 0).all()


@given(arrays(np.float32, (6, 3), elements=st.floats(-1000, 1000, width=16)))
def test_minmax_maps_into_zero_to_one(x):
    scaled = ScalerValues.minmax(x).apply(x)
    assert scaled.min() >= 0
    assert scaled.max() <= 1 + 1e-6


@given(tables)
def test_the_readable_copy_is_exact(x):
    values = ScalerValues.standard(x)
    rows = json.loads(values.to_json())["features"]
    assert np.array_equal(np.float32([row["offset"] for row in rows]), values.offset)
    assert np.array_equal(np.float32([row["scale"] for row in rows]), values.scale)


def test_the_readable_copy_names_its_features():
    text = ScalerValues.identity(2).to_json(["size", "größe"])
    assert [row["name"] for row in json.loads(text)["features"]] == ["size", "größe"]
    assert "größe" in text
    with pytest.raises(ModelError, match="expected 2 names"):
        ScalerValues.identity(2).to_json(["size"])


@pytest.mark.parametrize("scale", [[0, 1], [-1, 1], [np.nan, 1], [np.inf, 1], [1], [[1, 1]]])
def test_scales_that_cannot_be_are_refused(scale):
    with pytest.raises(ModelError, match="scaler"):
        ScalerValues(np.zeros(2, "float32"), np.array(scale, "float32"))


def test_readings_that_are_not_finite_or_missing_fit_no_scaler():
    for x in (np.array([[1, np.nan]]), np.zeros((0, 3)), np.zeros(3)):
        with pytest.raises(ModelError, match="finite readings"):
            ScalerValues.standard(x)
