"""Golden bytes of every codec, and a reader of the format that shares no code with ours."""

import hashlib
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from codec_helpers import NAMES, fixed, normal, variables_of
from dl_mqtt_clients.wire import weights
from dl_mqtt_clients.wire.codecs import codec
from dl_mqtt_clients.wire.codecs.tensor_file import Tensor, allocate

ARRAYS = [fixed(300).reshape(3, 100), fixed(5)]
GOLDEN = {  # tensors in the order of the file, the bytes that follow the header, the hash of all
    "float32": (
        ["0000 F32 [3, 100]", "0001 F32 [5]"],
        "000048bf000050be",
        "f76185cbb34b98d5fb0dc8a83c902abaa6f3369c762c8cc45844d6c396187f16",
    ),
    "bfloat16": (
        ["0001 F32 [5]", "0000 BF16 [3, 100]"],
        "000048bf000050be",
        "7b6873f7a25d8464709f8727a69c81c9cf6918294d23864ea96f790666428bf0",
    ),
    "float16": (
        ["0000.scale F32 []", "0001 F32 [5]", "0000 F16 [3, 100]"],
        "00000038000048bf",
        "e0568f70e4c29ce0f34a382ca0d1c66f9c600f2e2c626003b2522d4dff1c672d",
    ),
    "int8": (
        ["0000.scale F32 [1]", "0001 F32 [5]", "0000 I8 [3, 100]"],
        "8093c93b000048bf",
        "94966c00600483a331d256096be801bfdfb7a9c472873ccaf1cd14ed45d6e543",
    ),
    "int4": (
        ["0000.scale F32 [1]", "0001 F32 [5]", "0000 U8 [150]"],
        "8092e43d000048bf",
        "670030846c9e348b2416ce5b7e775d1f873d3f9e2b2ce7b0063aa984bf84d265",
    ),
    "topk:0.01": (
        ["0000 F32 [3]", "0001 F32 [5]", "0000.index U32 [3]"],
        "000048bf0000483f",
        "c831b99216ad36fea0e10e78c0916c252c5f2186bc9a15e9397731f96e6707b3",
    ),
    "topk:0.25": (
        ["0000 F32 [75]", "0001 F32 [5]", "0000.index U32 [75]"],
        "000048bf000020bf",
        "bd8b51ae71265da9488badb7ef4d1890d18a6393d0ba863c9e019411f1ae038f",
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_are_pinned(name):
    data = codec(name).encode(ARRAYS, variables_of(ARRAYS), seed=20240229).data
    tensors, begin, digest = GOLDEN[name]
    header, rest = taken_apart(data)
    assert [f"{key} {t['dtype']} {t['shape']}" for key, t in header.items()] == tensors
    assert rest[:8].hex() == begin
    assert hashlib.sha256(data).hexdigest() == digest


def taken_apart(data):
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), bytes(data[8 + size :])


def plainly_read(data, size: int) -> list[float]:
    """Position 0000 by the letter of the documentation, a value at a time."""
    header, rest = taken_apart(data)

    def values(key, form):
        begin, end = header[key]["data_offsets"]
        return [v[0] for v in struct.iter_unpack("<" + form, rest[begin:end])]

    dtype = header["0000"]["dtype"]
    if "0000.index" in header:
        sent = dict(zip(values("0000.index", "I"), values("0000", "f"), strict=True))
        return [sent.get(i, 0.0) for i in range(size)]
    if dtype == "BF16":
        return [struct.unpack("<f", struct.pack("<I", bits << 16))[0] for bits in values("0000", "H")]
    if dtype == "F32":
        return values("0000", "f")
    scales = values("0000.scale", "f")
    if dtype == "F16":
        return [v * scales[0] for v in values("0000", "e")]
    if dtype == "I8":
        return [q * scales[i // 1024] for i, q in enumerate(values("0000", "b"))]
    nibbles = [half for byte in values("0000", "B") for half in (byte & 15, byte >> 4)]
    return [(nibbles[i] - 8) * scales[i // 1024] for i in range(size)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [256, 1023, 1025, 3000])
def test_a_plain_reader_of_the_documented_format_reads_the_same(name, size):
    x = normal(size)
    data = codec(name).encode([x], variables_of([x]), seed=4).data
    assert codec(name).decode(data, variables_of([x]))[0].tolist() == plainly_read(data, size)


arrays = st.lists(
    hnp.arrays(
        st.sampled_from(sorted(weights.DTYPES)), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    ),
    max_size=5,
)


@given(arrays)
def test_a_file_of_any_tensors_is_laid_out_as_the_library_lays_it_out(parts):
    tensors = [Tensor(f"{i:04d}.x", weights.DTYPES[a.dtype.name], a.shape) for i, a in enumerate(parts)]
    data, views = allocate(tensors)
    for tensor, array in zip(tensors, parts, strict=True):
        np.copyto(views[tensor.key], array)
    assert data == safetensors.numpy.save(
        {t.key: np.ascontiguousarray(a).reshape(a.shape) for t, a in zip(tensors, parts, strict=True)}
    )
