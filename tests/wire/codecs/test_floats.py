"""bfloat16 and float16: against ml_dtypes and numpy, near zero and near the top."""

import ml_dtypes  # Keras brings it
import numpy as np
import pytest
from hypothesis import given

from codec_helpers import tensors, variables_of
from dl_mqtt_clients.wire.codecs import codec
from dl_mqtt_clients.wire.codecs.floats import Float16


def read(name: str, x: np.ndarray) -> np.ndarray:
    data = codec(name).encode([x], variables_of([x]), seed=0).data
    return codec(name).decode(data, variables_of([x]))[0]


@given(tensors())
def test_bfloat16_rounds_as_ml_dtypes_does(x):
    assert read("bfloat16", x).tobytes() == x.astype(ml_dtypes.bfloat16).astype(np.float32).tobytes()


def test_bfloat16_rounds_ties_to_even():
    x = np.zeros(256, np.float32)
    x[:4] = 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, -(1 + 2**-8)
    assert read("bfloat16", x)[:4].tolist() == [1, 1 + 2**-6, 1 + 2**-7, -1]


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@given(x=tensors())
def test_each_value_keeps_its_own_precision(name, x):
    """Not only the largest: an error relative to each value, and for float16 a floor far below the largest."""
    relative, floor = {"bfloat16": (2.0**-8, 2.0**-134), "float16": (2.0**-11, 2.0**-38 * np.abs(x).max() + 2.0**-151)}[
        name
    ]
    error = np.abs(read(name, x).astype(np.float64) - x)
    assert (error <= relative * np.abs(x.astype(np.float64)) + floor).all()


@pytest.mark.parametrize("largest", [1e-7, 65503.9, 65520.0, 1e6, 3e37])
def test_float16_neither_overflows_nor_loses_small_changes(largest):
    x = np.linspace(-largest, largest, 999, dtype=np.float32)
    assert np.allclose(read("float16", x), x, rtol=2**-11, atol=largest * 2**-38)


def test_the_scale_of_float16_is_the_power_of_two_below_which_the_largest_fits():
    x = np.zeros(256, np.float32)
    for largest, expected in [(2.0**14, 1.0), (2.0**15 - 1, 2.0), (2.0**15 - 64, 1.0), (1.0, 2.0**-14), (0, 2.0**-15)]:
        x[9] = largest
        parts = {"": np.empty(256, np.float16), ".scale": np.empty((), np.float32)}
        Float16().write(x, parts, largest=largest, seed=None)
        assert parts[".scale"] == expected
        assert np.abs(parts[""]).max() <= 2.0**15
