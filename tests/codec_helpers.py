"""Arrays and variables for the tests of the codecs."""

import numpy as np
from hypothesis import strategies as st

from dl_mqtt_clients.wire.codecs import codec
from dl_mqtt_clients.wire.messages import Variable

NAMES = ("float32", "bfloat16", "float16", "int8", "int4", "topk:0.01", "topk:0.25")
WHOLE = tuple(name for name in NAMES if codec(name).carries_weights)
SIZES = (256, 257, 300, 511, 1023, 1024, 1025, 2047, 2049, 3000)  # values of coded tensors, around the edges of groups


def variable(shape=(2,), dtype="float32", role="trainable") -> Variable:
    return Variable(role=role, shape=tuple(shape), dtype=dtype, path="dense/kernel")


def variables_of(arrays) -> list[Variable]:
    return [variable(a.shape, a.dtype.name) for a in arrays]


def fixed(size: int) -> np.ndarray:
    """The same on every machine: short fractions from -50/64 to 50/64, every magnitude many times."""
    return ((np.arange(size) * 37 % 101 - 50) / 64).astype(np.float32)


def normal(shape, seed=0, size=1e-3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * size).astype(np.float32)


@st.composite
def tensors(draw, sizes=SIZES, largest=1e37) -> np.ndarray:
    """One flat float32 array of a coded size: smooth, heavy-tailed, constant, zero, of any magnitude, with outliers."""
    size = draw(st.sampled_from(sizes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    magnitude = draw(st.sampled_from([0.0, 1e-45, 1e-42, 1e-38, 1e-30, 1e-6, 1e-3, 1.0, 65504.0, 1e20, largest]))
    kind = draw(st.sampled_from(["uniform", "tails", "constant", "sparse"]))
    if kind == "uniform":
        values = rng.uniform(-1, 1, size)
    elif kind == "tails":
        values = np.clip(rng.standard_cauchy(size) / 1000, -1, 1)
    elif kind == "constant":
        values = np.full(size, rng.choice([-1.0, 1.0]))
    else:
        values = rng.uniform(-1, 1, size) * (rng.random(size) < 0.02)
    array = (values * magnitude).astype(np.float32)
    for _ in range(draw(st.integers(0, 3))):
        place, bound = draw(st.integers(0, size - 1)), float(np.float32(largest))
        array[place] = draw(st.floats(-bound, bound, width=32))
    return array
