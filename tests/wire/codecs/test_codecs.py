"""What every codec keeps to."""

import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_helpers import NAMES, WHOLE, fixed, normal, tensors, variable, variables_of
from dl_mqtt_clients.errors import TransferError, WireError
from dl_mqtt_clients.wire import weights
from dl_mqtt_clients.wire.codecs import CODECS, as_changes, codec, is_coded

LIBRARY = {"BF16": ml_dtypes.bfloat16, "F16": "f2", "F32": "f4", "I8": "i1", "U8": "u1", "U32": "u4"}
every = pytest.mark.parametrize("name", NAMES)


@every
@given(x=tensors(), seed=st.none() | st.integers(0, 2**256))
def test_no_value_is_further_off_than_the_bound_and_the_size_was_known(name, x, seed):
    one, given_variables = codec(name), variables_of([x])
    data = one.encode([x], given_variables, seed=seed).data
    (read,) = one.decode(data, given_variables)
    assert (read.shape, read.dtype) == (x.shape, np.float32)
    assert np.abs(read.astype(np.float64) - x).max() <= one.error_bound([x], given_variables)[0]
    smallest, largest = one.size_range(given_variables)
    assert smallest <= len(data) <= largest


@pytest.mark.parametrize("name", WHOLE)
@given(x=tensors())
def test_rounding_again_changes_nothing(name, x):
    one, given_variables = codec(name), variables_of([x])
    once = one.round([x], given_variables)
    assert one.round(once, given_variables)[0].tobytes() == once[0].tobytes()


@every
@pytest.mark.parametrize("size", [65535, 65536, 65537, 2 * 65536 + 1024 + 3, 2**18 + 5])
def test_tensors_of_many_blocks_arrive_in_order(name, size):
    x = normal(size)
    one, given_variables = codec(name), variables_of([x])
    (read,) = one.decode(one.encode([x], given_variables, seed=1).data, given_variables)
    assert np.abs(read - x).max() <= one.error_bound([x], given_variables)[0]
    sent = read != 0  # top-k leaves out, the others keep order: only a right order correlates
    assert np.corrcoef(read[sent], x[sent])[0, 1] > 0.97


@every
def test_the_same_seed_gives_the_same_bytes_wherever_a_tensor_stands(name):
    one, x, y = codec(name), normal(1500), normal((30, 40), 1)
    given_variables = variables_of([x, y])
    both = one.encode([x, y], given_variables, seed=7).data
    assert both == one.encode([x, y], given_variables, seed=7).data
    swapped = one.encode([y, x], given_variables, (1, 0), seed=7).data
    assert both == swapped
    alone = one.decode(one.encode([y], given_variables, (1,), seed=7).data, given_variables, (1,))
    assert np.array_equal(alone[0], one.decode(both, given_variables)[1])


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_another_seed_and_another_position_round_differently(name):
    one, x = codec(name), normal(1500)
    given_variables = variables_of([x, x])
    first, second = one.decode(one.encode([x, x], given_variables, seed=7).data, given_variables)
    other, _ = one.decode(one.encode([x, x], given_variables, seed=8).data, given_variables)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)


@every
def test_small_tensors_statistics_and_other_dtypes_travel_as_they_are(name):
    arrays = [
        normal(255), normal(()), np.zeros((0, 300), np.float32), normal(500, 1), normal(600, 2),
        np.arange(700, dtype=np.int32), normal(800).astype(np.float16),
    ]  # fmt: skip
    roles = ["trainable", "trainable", "trainable", "statistic", "scaler", "trainable", "trainable"]
    given_variables = [variable(a.shape, a.dtype.name, role) for a, role in zip(arrays, roles, strict=True)]
    assert not any(map(is_coded, given_variables))
    data = codec(name).encode(arrays, given_variables, seed=0).data
    assert data == weights.encode(arrays)
    for read, array in zip(codec(name).decode(data, given_variables), arrays, strict=True):
        assert (read.shape, read.dtype, read.tobytes()) == (array.shape, array.dtype, array.tobytes())


@every
def test_the_library_reads_the_file_and_would_write_the_same(name):
    arrays = [normal(300), normal((40, 50), 1), normal(7, 2), normal(1025, 3)]
    data = bytes(codec(name).encode(arrays, variables_of(arrays), seed=0).data)
    read = {
        key: np.frombuffer(tensor["data"], LIBRARY[tensor["dtype"]]).reshape(tensor["shape"])
        for key, tensor in safetensors.deserialize(data)
    }
    assert safetensors.numpy.save(read) == data


def test_float32_is_the_file_of_weights_bit_by_bit_and_decodes_to_views():
    arrays = [normal((30, 20)), normal(5)]
    data = codec("float32").encode(arrays, variables_of(arrays), seed=None).data
    assert data == weights.encode(arrays)
    read = codec("float32").decode(data, variables_of(arrays))
    assert not any(r.flags.owndata or r.flags.writeable for r in read)
    assert [r.tobytes() for r in read] == [a.tobytes() for a in arrays]


@every
def test_a_transposed_array_is_read_in_the_order_of_its_shape(name):
    x = normal((40, 30)).T
    one, given_variables = codec(name), variables_of([x])
    expected = one.encode([np.ascontiguousarray(x)], given_variables, seed=3).data
    assert one.encode([x], given_variables, seed=3).data == expected


@every
def test_the_input_is_never_changed(name):
    x, residual = normal(3000), normal(3000, 1)
    before = x.tobytes(), residual.tobytes()
    codec(name).encode([x], variables_of([x]), seed=0)
    codec(name).encode([x], variables_of([x]), seed=0, residual=[residual])
    assert (x.tobytes(), residual.tobytes()) == before


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e38])
@pytest.mark.parametrize("size", [10, 300])
def test_a_diverged_fit_is_refused_before_it_is_sent(name, bad, size):
    x = fixed(size)
    x[3] = bad
    with pytest.raises(TransferError, match="position 0001 holds NaN, infinity or a value above"):
        codec(name).encode([fixed(3), x], variables_of([fixed(3), x]), seed=0)


@every
def test_what_is_not_the_variable_is_a_mistake_of_the_caller(name):
    x = normal(300)
    for wrong in (x[:-1], x.reshape(3, 100), x.astype(np.float64)):
        with pytest.raises(ValueError, match="position 0000: expected float32"):
            codec(name).encode([wrong], variables_of([x]), seed=0)
        with pytest.raises(ValueError, match="position 0000: expected float32"):
            codec(name).encode([x], variables_of([x]), seed=0, residual=[wrong])
    with pytest.raises(ValueError, match="argument 2 is"):
        codec(name).encode([x, x], variables_of([x]), seed=0)
    with pytest.raises(ValueError, match="argument 2 is"):
        codec(name).encode([x], variables_of([x]), seed=0, residual=[])


@every
def test_a_model_without_variables_is_a_file_too(name):
    data = codec(name).encode([], [], seed=0).data
    assert codec(name).decode(data, []) == []
    assert codec(name).size_range([])[0] <= len(data) <= codec(name).size_range([])[1]


@every
def test_the_size_of_a_hostile_manifest_is_counted_without_overflow(name):
    assert codec(name).size_range([variable((2**31, 2**31, 4))])[0] > 2**64
    with pytest.raises(TransferError, match="does not travel"):
        codec(name).size_range([variable((300,), dtype="complex64")])


@pytest.mark.parametrize(
    ("name", "share"),
    [("float32", 1.01), ("bfloat16", 0.501), ("float16", 0.501), ("int8", 0.26), ("int4", 0.13), ("topk:0.01", 0.021)],
)
def test_bytes_are_the_promised_share_of_float32_for_a_large_model(name, share):
    model = [variable((2000, 2000))] * 6 + [variable((2000,))] * 6 + [variable((1000, 988))]
    assert codec(name).size_range(model)[1] <= share * weights.nbytes(model)


@pytest.mark.parametrize("name", WHOLE)
def test_neither_side_holds_more_than_its_result_and_some_blocks(name):
    x = normal((1024, 1024))
    one, given_variables = codec(name), variables_of([x])
    one.decode(one.encode([x], given_variables, seed=0).data, given_variables)  # first use imports and caches
    tracemalloc.start()
    try:
        data = one.encode([x], given_variables, seed=0).data
        assert tracemalloc.get_traced_memory()[1] < len(data) + 2_000_000
        tracemalloc.reset_peak()
        one.decode(data, given_variables)
        assert tracemalloc.get_traced_memory()[1] < len(data) + x.nbytes + 2_000_000
    finally:
        tracemalloc.stop()


def test_the_variables_of_an_update_are_float32():
    given_variables = [variable((3,), "float16"), variable((2,), "int32", "statistic")]
    changes = as_changes(given_variables)
    assert [(v.dtype, v.shape, v.role) for v in changes] == [
        ("float32", (3,), "trainable"),
        ("float32", (2,), "statistic"),
    ]


@every
def test_a_name_finds_its_codec_and_a_codec_tells_its_name(name):
    assert codec(name).name == name
    assert codec(codec(name).name) == codec(name)
    assert len({codec(n) for n in NAMES}) == len(NAMES)


def test_the_known_names_are_pinned():
    assert CODECS == ("float32", "bfloat16", "float16", "int8", "int4", "topk:<share>")


@settings(max_examples=50)
@given(st.floats(0.0001, 0.5))
def test_any_share_survives_its_spelling_and_fits_the_announcement(share):
    one = codec(f"topk:{share!r}")
    assert one.scheme.share == share
    assert codec(one.name) == one
    assert len(one.name) <= 32


@pytest.mark.parametrize(
    "name", ["", "int", "INT8", "int8 ", "float64", "topk", "topk:", "topk:x", "topk:0,1", "int8:1", "x" * 500]
)
def test_an_unknown_name_is_told_what_is_known(name):
    with pytest.raises(WireError, match=r"expected float32, .*topk:<share>. Received: ") as caught:
        codec(name)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("share", ["0", "-1", "0.00001", "0.6", "1", "nan", "inf"])
def test_a_share_out_of_range_is_told_its_range(share):
    with pytest.raises(WireError, match=r"share: expected 0.0001 to 0.5. Received: "):
        codec(f"topk:{share}")
