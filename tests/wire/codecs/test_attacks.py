"""Whatever comes instead of an update is a TransferError of one short line, and nothing else."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_helpers import NAMES, fixed, normal, variable, variables_of
from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.codecs import codec
from dl_mqtt_clients.wire.codecs.tensor_file import allocate

SIZE = 2049  # odd, three groups
ARRAYS = [fixed(SIZE), fixed(5), fixed(300)]
VARIABLES = [variable((SIZE,)), variable((5,)), variable((300,), role="statistic")]
every = pytest.mark.parametrize("name", NAMES)


def refused(name, data, variables=VARIABLES, match="update: |weights: "):
    with pytest.raises(TransferError, match=match) as caught:
        codec(name).decode(data, variables)
    assert len(str(caught.value)) < 500


def forged(name, key, place, value, form):
    """A valid file with one value of one tensor replaced, bit by bit."""
    data = codec(name).encode(ARRAYS, VARIABLES, seed=1).data
    start = 8 + int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:start])[key]["data_offsets"]
    width = struct.calcsize("<" + form)
    at = start + begin + place % ((end - begin) // width) * width
    data[at : at + width] = struct.pack("<" + form, value)
    return data


FORGERIES = {
    "a NaN as float32": ("float32", "0000", 7, np.nan, "f"),
    "infinity as float32": ("float32", "0000", -1, -np.inf, "f"),
    "the largest float32": ("float32", "0000", 7, 3.4e38, "f"),
    "a signalling NaN as float32": ("float32", "0000", 7, 0x7F800001, "I"),
    "a NaN in a small tensor": ("int8", "0001", 2, np.nan, "f"),
    "infinity in a statistic": ("topk:0.01", "0002", 2, np.inf, "f"),
    "bfloat16 NaN": ("bfloat16", "0000", 7, 0x7FC0, "H"),
    "bfloat16 signalling NaN": ("bfloat16", "0000", 7, 0xFF81, "H"),
    "bfloat16 infinity": ("bfloat16", "0000", -1, 0xFF80, "H"),
    "float16 NaN": ("float16", "0000", 7, 0x7E00, "H"),
    "float16 signalling NaN": ("float16", "0000", 7, 0x7D00, "H"),
    "float16 infinity": ("float16", "0000", -1, 0xFC00, "H"),
    "float16 scale 0": ("float16", "0000.scale", 0, 0.0, "f"),
    "float16 scale negative": ("float16", "0000.scale", 0, -1.0, "f"),
    "float16 scale NaN": ("float16", "0000.scale", 0, np.nan, "f"),
    "float16 scale infinite": ("float16", "0000.scale", 0, np.inf, "f"),
    "float16 scale no power of two": ("float16", "0000.scale", 0, 0.75, "f"),
    "float16 scale denormal": ("float16", "0000.scale", 0, 2.0**-127, "f"),
    "float16 scale too large": ("float16", "0000.scale", 0, 2.0**113, "f"),
    "int8 of -128": ("int8", "0000", 5, -128, "b"),
    "int8 of -128 at the end": ("int8", "0000", -1, -128, "b"),
    "int8 scale 0": ("int8", "0000.scale", 0, 0.0, "f"),
    "int8 scale -0": ("int8", "0000.scale", 0, -0.0, "f"),
    "int8 scale negative": ("int8", "0000.scale", 1, -1.0, "f"),
    "int8 scale NaN": ("int8", "0000.scale", 1, np.nan, "f"),
    "int8 scale infinite": ("int8", "0000.scale", 2, np.inf, "f"),
    "int8 scale too large": ("int8", "0000.scale", 2, 2.0**120 * 1.0625, "f"),
    "int8 scale denormal": ("int8", "0000.scale", 2, 2.0**-127, "f"),
    "int8 scale of 24 bits": ("int8", "0000.scale", 2, 1 + 2.0**-23, "f"),
    "int4 of -8, low": ("int4", "0000", 5, 0x50, "B"),
    "int4 of -8, high": ("int4", "0000", 5, 0x05, "B"),
    "int4 padding not 8": ("int4", "0000", -1, 0x18, "B"),
    "int4 scale too large": ("int4", "0000.scale", 0, 2.0**124 * 1.25, "f"),
    "int4 scale NaN": ("int4", "0000.scale", 2, np.nan, "f"),
    "top-k NaN": ("topk:0.01", "0000", 0, np.nan, "f"),
    "top-k infinity": ("topk:0.01", "0000", -1, np.inf, "f"),
    "top-k place beyond the end": ("topk:0.01", "0000.index", -1, SIZE, "I"),
    "top-k place of 2**32 - 1": ("topk:0.01", "0000.index", -1, 2**32 - 1, "I"),
    "top-k places that fall": ("topk:0.01", "0000.index", 0, SIZE - 1, "I"),
    "top-k place beyond the end among others": ("topk:0.01", "0000.index", 3, 2**31, "I"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_value_is_refused_without_a_warning(what):
    reason = "scale: expected" if "scale" in what else "position 000[012]"
    refused(FORGERIES[what][0], forged(*FORGERIES[what]), match=reason)


def test_a_place_named_twice_is_refused():
    x = np.zeros(300, np.float32)
    x[[10, 20, 30]] = 1
    one = codec("topk:0.01")
    data = one.encode([x], variables_of([x]), seed=None).data
    data[-8:-4] = data[-12:-8]
    refused("topk:0.01", data, variables_of([x]), match="rising places")


@pytest.mark.parametrize("what", [f for f in FORGERIES if "scale" in f or "int" in f])
def test_the_forgery_of_a_good_value_is_read(what):
    """Otherwise the forgeries above might be refused for the wrong reason."""
    name, key, place, _, form = FORGERIES[what]
    good = {"b": 1, "B": 0x88, "f": 1.0, "H": 0x3C00}[form]
    assert codec(name).decode(forged(name, key, place, good, form), VARIABLES)[0].shape == (SIZE,)


@every
def test_the_file_of_another_codec_is_refused(name):
    for other in set(NAMES) - {name}:
        refused(name, codec(other).encode(ARRAYS, VARIABLES, seed=1).data)


def changed(tensors, name):
    """A file of the codec's tensors after `tensors` changed their list."""
    return allocate(tensors(codec(name)._tensors(VARIABLES, (0, 1, 2))))[0]


def with_first(**fields):
    import dataclasses

    return lambda tensors: [dataclasses.replace(tensors[0], **fields), *tensors[1:]]


@every
@pytest.mark.parametrize(
    "tensors",
    [
        lambda tensors: tensors[1:],
        lambda tensors: tensors[:-1],
        lambda tensors: [*tensors, *allocated_extra()],
        with_first(key="0000.scales"),
        with_first(key="0"),
        with_first(dtype="I64"),
        with_first(shape=(1, SIZE)),
        with_first(shape=(SIZE - 2,)),
        with_first(shape=()),
    ],
    ids=["first missing", "last missing", "one too many", "other key", "short key", "dtype", "rank", "size", "scalar"],
)
def test_other_tensors_than_expected_are_refused(name, tensors):
    refused(name, changed(tensors, name))


def allocated_extra():
    from dl_mqtt_clients.wire.codecs.tensor_file import Tensor

    return [Tensor("0009", "F32", (0,))]


def test_float16_values_above_what_an_encoder_scales_are_refused_without_a_warning():
    x = np.full(300, 2.0**126, np.float32)
    data = codec("float16").encode([x], variables_of([x]), seed=None).data
    data[-2:] = struct.pack("<H", 0x7BFF)  # 65,504 · 2¹¹² is above 2¹²⁷
    refused("float16", data, variables_of([x]), match="holds NaN, infinity")


@every
def test_offsets_that_move_bytes_from_one_tensor_to_the_next_are_refused(name):
    data = codec(name).encode(ARRAYS, VARIABLES, seed=1).data
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    first, second = list(header)[:2]
    header[first]["data_offsets"][1] -= 4
    header[second]["data_offsets"][0] -= 4
    text = json.dumps(header).encode()
    refused(name, len(text).to_bytes(8, "little") + text + data[start:], match="do not match its shape")


@every
@pytest.mark.parametrize("end", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(name, end):
    data = codec(name).encode(ARRAYS, VARIABLES, seed=1).data
    refused(name, data[:end])
    refused(name, data + b"\0")


@every
def test_a_hostile_manifest_is_refused_before_anything_is_allocated(name):
    for shape in [(2**31, 1), (2**31, 2**31, 4), (0, 2**31, 2**31, 2**31), (1,) * 70 + (300,)]:
        hostile = [variable(shape)]
        empty = codec(name).encode([fixed(300)], [variable((300,))], seed=None).data
        refused(name, empty, hostile)


def test_more_dimensions_than_an_array_can_have_are_refused_even_when_the_file_agrees():
    for name in ("topk:0.01", "int4"):
        data = codec(name).encode([fixed(300)], [variable((300,))], seed=None).data
        refused(name, data, [variable((1,) * 70 + (300,))])


@every
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_what_it_says(name, data):
    """Bit errors are the hash's business; but nothing that is read may be malformed."""
    arrays = [normal(300), fixed(5)]
    damaged = codec(name).encode(arrays, variables_of(arrays), seed=1).data
    for _ in range(data.draw(st.integers(1, 4))):
        how = data.draw(st.sampled_from(["change", "change", "insert", "delete"]))
        place = data.draw(st.integers(0, len(damaged) - 1))
        if how == "insert":
            damaged.insert(place, data.draw(st.integers(0, 255)))
        else:
            damaged[place : place + 1] = b"" if how == "delete" else bytes([data.draw(st.integers(0, 255))])
    try:
        read = codec(name).decode(damaged, variables_of(arrays))
    except TransferError:
        return
    assert [(a.shape, a.dtype) for a in read] == [((300,), np.float32), ((5,), np.float32)]
    assert all(np.isfinite(a).all() for a in read)


@every
@given(data=st.data())
def test_what_is_read_of_damaged_tensors_is_finite_and_encodes_again(name, data):
    """The header stays; only tensors are damaged: then most files are read, and what they say is a legal update."""
    arrays = [normal(300)]
    damaged = codec(name).encode(arrays, variables_of(arrays), seed=1).data
    start = 8 + int.from_bytes(damaged[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(start, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        (read,) = codec(name).decode(damaged, variables_of(arrays))
    except TransferError:
        return
    assert np.abs(read).max() <= 2.0**127
    if np.abs(read).max() <= 2.0**126:
        codec(name).encode([read], variables_of(arrays), seed=1)


@given(st.sampled_from(NAMES), st.binary(max_size=200))
def test_random_bytes_are_refused(name, payload):
    refused(name, payload)
