"""Weights: golden bytes, the safetensors library as the second opinion, and every attack we know of."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import (
    DTYPES,
    check_finite,
    decode,
    encode,
    header_limit,
    key,
    nbytes,
    update_positions,
)


def variable(shape=(2,), dtype="float32", role="trainable") -> Variable:
    return Variable(role=role, shape=shape, dtype=dtype, path="dense/kernel")


KERNEL = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
BIAS = np.array([-1.0, 0.5], dtype=np.float32)
VARIABLES = [variable((2, 2)), variable((2,))]
FILE = encode([KERNEL, BIAS])


def built(header: dict | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape, begin, end, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


TWO = {"0000": entry([2, 2], 0, 16), "0001": entry([2], 16, 24)}
TEXT = json.dumps(TWO).encode()
DATA = KERNEL.tobytes() + BIAS.tobytes()


def test_the_bytes_are_pinned():
    text = (
        b'{"0000":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
        b'"0001":{"dtype":"F32","shape":[2],"data_offsets":[16,24]}}  '
    )
    assert (120).to_bytes(8, "little") + text + DATA == FILE


def test_the_file_we_build_by_hand_is_a_good_one():
    """Otherwise the attacks below would be refused for the wrong reason."""
    kernel, bias = decode(built(TWO, DATA), VARIABLES)
    assert np.array_equal(kernel, KERNEL)
    assert np.array_equal(bias, BIAS)


def test_the_safetensors_library_reads_what_we_write_and_writes_what_we_read():
    library = safetensors.numpy.load(FILE)
    assert {name: array.tolist() for name, array in library.items()} == {"0000": KERNEL.tolist(), "0001": BIAS.tolist()}
    assert safetensors.numpy.save({"0001": BIAS, "0000": KERNEL}) == FILE


def test_what_is_decoded_are_read_only_views_of_the_buffer():
    buffer = bytearray(FILE)
    kernel, bias = decode(buffer, VARIABLES)
    start = len(FILE) - len(DATA)
    buffer[start : start + 4] = np.float32(9).tobytes()
    assert kernel[0, 0] == 9
    assert not kernel.flags.writeable
    assert not bias.flags.writeable
    assert not kernel.flags.owndata


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, lambda b: memoryview(np.frombuffer(b, np.uint8))])
def test_any_buffer_can_be_read(wrap):
    assert np.array_equal(decode(wrap(FILE), VARIABLES)[1], BIAS)


def test_an_update_leaves_out_the_scaler_and_keeps_its_positions():
    variables = [variable(role="scaler"), variable((2, 2)), variable(role="statistic")]
    assert update_positions(variables) == (1, 2)
    data = encode([KERNEL, BIAS], (1, 2))
    kernel, bias = decode(data, variables, (1, 2))
    assert np.array_equal(kernel, KERNEL)
    assert np.array_equal(bias, BIAS)
    with pytest.raises(TransferError, match="expected exactly 3 positions"):
        decode(data, variables)


def test_scalars_and_empty_variables_keep_their_shapes():
    arrays = [np.float32(3.5).reshape(()), np.zeros((0, 4), np.float32)]
    scalar, empty = decode(encode(arrays), [variable(()), variable((0, 4))])
    assert scalar.shape == ()
    assert scalar == 3.5
    assert empty.shape == (0, 4)


def test_a_transposed_array_is_written_in_the_order_of_its_shape():
    (read,) = decode(encode([KERNEL.T]), [variable((2, 2))])
    assert np.array_equal(read, KERNEL.T)


def test_one_array_a_position_is_expected():
    with pytest.raises(ValueError, match="longer"):
        encode([KERNEL, BIAS], (0,))


def test_a_model_without_variables_is_a_file_too():
    assert decode(encode([]), []) == []


def test_bytes_are_counted_without_overflow():
    assert nbytes(VARIABLES) == 24
    assert nbytes([variable((2**31, 2**31, 4))]) == 2**66
    assert nbytes([variable((), dtype="float64")]) == 8
    assert nbytes([]) == 0


def test_the_key_of_a_position_is_a_number_of_four_digits_or_more():
    assert [key(p) for p in (0, 7, 9999, 12345)] == ["0000", "0007", "9999", "12345"]


arrays = st.lists(
    hnp.arrays(st.sampled_from(sorted(DTYPES)), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    max_size=4,
)


@given(arrays)
def test_whatever_is_encoded_is_decoded_bit_by_bit_and_by_the_library_too(parts):
    data = encode(parts)
    read = decode(data, [variable(a.shape, str(a.dtype)) for a in parts])
    library = safetensors.numpy.load(data)
    for position, array in enumerate(parts):
        assert read[position].dtype == array.dtype
        assert read[position].shape == array.shape
        assert read[position].tobytes() == array.tobytes() == library[key(position)].tobytes()
    assert len(data) <= nbytes([variable(a.shape, str(a.dtype)) for a in parts]) + 8 + header_limit(len(parts))


ATTACKS = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "no header": b"\0" * 8,
    "header longer than the file": built(TWO, DATA, length=10_000),
    "header of 2**64 - 1 bytes": b"\xff" * 8 + DATA,
    "header cut short": built(TWO, DATA, length=20),
    "header longer than two tensors need": built(TEXT + b" " * 600, DATA),
    "header that is a list": built(b"[]", DATA),
    "header that is no json": built(b"{'0000': 1}", DATA),
    "header that is no utf-8": built(b'{"\xff\xfe": 1}', DATA),
    "header in utf-16": built(json.dumps({"0000": 1}).encode("utf-16"), DATA),
    "header nested too deep": built(b"[" * 500, DATA),
    "metadata": built({"__metadata__": {"format": "pt"}, **TWO}, DATA),
    "unknown field of a tensor": built({**TWO, "0001": {**TWO["0001"], "strides": [1]}}, DATA),
    "missing field": built({**TWO, "0001": {"dtype": "F32", "shape": [2]}}, DATA),
    "the same position twice": built(TEXT[:-1] + b',"0001":' + json.dumps(TWO["0001"]).encode() + b"}", DATA),
    "the same field twice": built(TEXT.replace(b'"shape": [2],', b'"shape": [9], "shape": [2],'), DATA),
    "a position missing": built({"0000": TWO["0000"]}, DATA[:16]),
    "a position too many": built({**TWO, "0002": entry([0], 24, 24)}, DATA),
    "another position": built({"0000": TWO["0000"], "0002": TWO["0001"]}, DATA),
    "a path for a position": built({"0000": TWO["0000"], "../../etc/passwd": TWO["0001"]}, DATA),
    "overlap": built({"0000": entry([2, 2], 0, 16), "0001": entry([2], 8, 16)}, DATA[:16]),
    "the same bytes for both": built({"0000": entry([2, 2], 0, 16), "0001": entry([2, 2], 0, 16)}, DATA[:16]),
    "gap": built({"0000": entry([2, 2], 0, 16), "0001": entry([2], 20, 28)}, DATA + b"gap!"),
    "gap before the first": built({"0000": entry([2, 2], 4, 20), "0001": entry([2], 20, 28)}, b"gap!" + DATA),
    "bytes after the last": built(TWO, DATA + b"more"),
    "truncated": built(TWO, DATA[:-1]),
    "negative offset": built({"0000": entry([2, 2], 0, 16), "0001": entry([2], 16, -8)}, DATA),
    "end before begin": built({"0000": entry([2, 2], 0, 32), "0001": entry([2], 32, 24)}, DATA),
    "offset of 10**30": built({"0000": entry([2, 2], 0, 16), "0001": entry([2], 16, 10**30)}, DATA),
    "offset of 5000 digits": built(b'{"0000":{"data_offsets":[0,' + b"9" * 400 + b"]}}", DATA),
    "offset that is no integer": built({"0000": entry([2, 2], 0, 16), "0001": entry([2], 16, 24.5)}, DATA),
    "offset that is true": built({"0000": entry([2, 2], False, 16), "0001": entry([2], 16, 24)}, DATA),
    "three offsets": built({**TWO, "0001": {"dtype": "F32", "shape": [2], "data_offsets": [16, 20, 24]}}, DATA),
    "bytes that do not match the shape": built({"0000": entry([2, 2], 0, 20), "0001": entry([2], 20, 24)}, DATA),
    "float64 for float32": encode([KERNEL.astype(np.float64), BIAS.astype(np.float64)]),
    "int32 for float32": encode([KERNEL.astype(np.int32), BIAS]),
    "unknown dtype": built({**TWO, "0001": entry([2], 16, 24, dtype="F" * 300)}, DATA),
    "another shape of the same size": encode([KERNEL.reshape(4), BIAS]),
    "positions changed": encode([BIAS, KERNEL]),
    "huge shape": built({**TWO, "0001": entry([2**31, 2**31, 4], 16, 24)}, DATA),
    "negative shape": built({**TWO, "0001": entry([-2], 16, 24)}, DATA),
    "a hundred dimensions": built({**TWO, "0001": entry([1] * 100 + [2], 16, 24)}, DATA),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_attack_is_a_transfer_error_of_one_short_line(attack):
    with pytest.raises(TransferError, match="weights: ") as caught:
        decode(ATTACKS[attack], VARIABLES)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "hostile",
    [
        variable((2**31, 2**31, 4)),  # 2⁶⁶ bytes: 0 in 64 bits
        variable((0, 2**31, 2**31, 2**31)),  # nothing, but longer than an array can be
        variable((1,) * 70 + (0,)),
        variable((0,), dtype="no such type"),
        variable((0,), dtype="?"),
        variable((0,), dtype="object"),
    ],
    ids=lambda v: f"{v.dtype}{v.shape[:4]}",
)
def test_a_hostile_manifest_is_a_transfer_error_even_when_the_file_agrees(hostile):
    file = built({"0000": entry(list(hostile.shape), 0, 0, dtype=DTYPES.get(hostile.dtype, "?"))})
    with pytest.raises(TransferError):
        decode(file, [hostile])


def test_a_dtype_that_does_not_travel_has_no_size():
    with pytest.raises(TransferError, match="expected a dtype of float64, float32"):
        nbytes([variable(dtype="complex64")])


@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_as_what_it_says(data):
    damaged = bytearray(FILE)
    for _ in range(data.draw(st.integers(1, 4))):
        how = data.draw(st.sampled_from(["change", "insert", "delete"]))
        place = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        if how == "insert":
            damaged.insert(place, data.draw(st.integers(0, 255)))
        elif damaged:
            damaged[place : place + 1] = b"" if how == "delete" else bytes([data.draw(st.integers(0, 255))])
    try:
        read = decode(damaged, VARIABLES)
    except TransferError:
        return
    assert [(a.shape, a.dtype) for a in read] == [((2, 2), np.float32), ((2,), np.float32)]


@given(st.binary(max_size=200))
def test_random_bytes_are_refused(payload):
    with pytest.raises(TransferError):
        decode(payload, VARIABLES)


@given(text=st.binary(max_size=100), data=st.binary(max_size=30))
def test_a_random_header_is_refused(text, data):
    with pytest.raises(TransferError):
        decode(built(text, data), VARIABLES)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity_are_refused_and_their_position_is_named(bad, dtype):
    arrays = [KERNEL, np.array([0.0, bad], dtype=dtype)]
    with pytest.raises(TransferError, match="position 0007 holds NaN or infinity"):
        check_finite(arrays, (3, 7), limit=1e9)


@pytest.mark.parametrize("value", [1.5, -1.5])
def test_a_change_larger_than_the_limit_is_refused(value):
    with pytest.raises(TransferError, match=r"position 0001: expected \|change\| ≤ 1. Received: 1.5"):
        check_finite([np.float32([0, value])], (1,), limit=1.0)


def test_what_is_within_the_limit_passes():
    good = [np.float32([1, -1]), np.zeros((0, 3), np.float32), np.array(1.0, np.float32), np.array([7])]
    assert check_finite(good, range(4), limit=1.0) is None


@given(
    hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32)),
    st.floats(0, 1e30),
)
def test_exactly_what_is_finite_and_within_the_limit_passes(array, limit):
    good = bool(np.isfinite(array).all()) and float(np.abs(array).max()) <= limit
    try:
        check_finite([array], (0,), limit=limit)
    except TransferError:
        assert not good
    else:
        assert good
