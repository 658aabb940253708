"""Top-k: the right k, and with error feedback nothing is lost over the rounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_helpers import fixed, normal, tensors, variable, variables_of
from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.codecs import codec
from dl_mqtt_clients.wire.codecs.topk import TopK

shares = st.sampled_from([0.0001, 0.01, 0.1, 0.25, 0.5])


def exchange(one, x, given_variables, residual=None):
    encoded = one.encode(x, given_variables, seed=None, residual=residual)
    return one.decode(encoded.data, given_variables), encoded.residual


def plain_topk(x, k):
    """The twin: sort by magnitude, the earlier first among equals."""
    kept = sorted(range(x.size), key=lambda i: (-abs(float(x[i])), i))[:k]
    result = np.zeros_like(x)
    result[kept] = x[kept]
    return result


@given(x=tensors(), share=shares)
def test_exactly_the_k_largest_are_sent_the_first_of_equals_and_the_rest_is_the_residual(x, share):
    one = codec(f"topk:{share}")
    (sent,), (residual,) = exchange(one, [x], variables_of([x]))
    assert np.array_equal(sent, plain_topk(x, one.scheme.kept(x.size)))
    assert np.array_equal(sent + residual, x)
    assert not ((sent != 0) & (residual != 0)).any()


@pytest.mark.parametrize("x", [fixed(2**18 + 2**17), np.ones(2**19, np.float32), normal(2**18 + 1)], ids=len)
def test_the_k_largest_are_found_over_many_blocks(x):
    one = codec("topk:0.25")
    (sent,), _ = exchange(one, [x], variables_of([x]))
    order = np.lexsort((np.arange(x.size), -np.abs(x)))[: one.scheme.kept(x.size)]
    expected = np.zeros_like(x)
    expected[order] = x[order]
    assert np.array_equal(sent, expected)


@given(x=tensors(), share=shares)
def test_what_was_sent_is_sent_again_unchanged(x, share):
    one, given_variables = codec(f"topk:{share}"), variables_of([x])
    sent, _ = exchange(one, [x], given_variables)
    again, _ = exchange(one, sent, given_variables)
    assert np.array_equal(again[0], sent[0])


@given(
    st.lists(st.integers(0, 2**32), min_size=1, max_size=12),
    shares,
    st.sampled_from([300, 1025]),
)
def test_over_the_rounds_what_arrived_and_what_is_left_is_what_was_meant(seeds, share, size):
    """Law of error feedback: Σ decoded + residual = Σ inputs, but for the rounding of one sum a round."""
    one, given_variables = codec(f"topk:{share}"), [variable((size,)), variable((9,))]
    meant, arrived = np.zeros(size), np.zeros(size)
    residual = None
    for seed in seeds:
        x, small = normal(size, seed), normal(9, seed)
        (sent, whole), residual = exchange(one, [x, small], given_variables, residual)
        assert np.array_equal(whole, small)
        meant += x
        arrived += sent
    assert np.allclose(arrived + residual[0], meant, rtol=0, atol=len(seeds) * 2.0**-23 * np.abs(meant).max() * 12)
    assert not residual[1].any()


def test_the_mean_of_what_arrives_converges_to_a_constant_input():
    """The residual stays bounded, so the mean of T rounds is off by residual/T; without feedback it never comes."""
    one, x = codec("topk:0.1"), normal(1000)
    given_variables = variables_of([x])
    off, residual, total = {}, None, np.zeros(1000)
    for t in range(1, 401):
        (sent,), residual = exchange(one, [x], given_variables, residual)
        total += sent
        off[t] = np.linalg.norm(total / t - x) / np.linalg.norm(x)
    assert off[1] > 0.5
    assert off[100] < 0.1
    assert off[400] < 0.25 * off[100] * 1.1
    assert np.linalg.norm(residual[0]) <= 2 / 0.1 * np.linalg.norm(x)  # Stich et al., lemma 3.2's order: 1/share


def test_a_codec_without_a_residual_takes_an_old_one_in_and_leaves_none():
    """So that a federation may change its codec between two rounds and lose nothing."""
    x, left = normal(400), normal(400, 1)
    encoded = codec("float32").encode([x], variables_of([x]), seed=None, residual=[left])
    assert encoded.residual is None
    assert np.array_equal(codec("float32").decode(encoded.data, variables_of([x]))[0], x + left)


@pytest.mark.parametrize("name", ["topk:0.1", "float32", "int8"])
def test_a_sum_that_leaves_the_range_is_refused(name):
    x = np.full(300, 8e37, np.float32)
    with pytest.raises(TransferError, match="above"):
        codec(name).encode([x], variables_of([x]), seed=0, residual=[x])
    y = np.full(300, 3e38, np.float32)
    with pytest.raises(TransferError, match="above"):
        codec(name).encode([y], variables_of([x]), seed=0, residual=[y])


def test_whole_weights_do_not_travel_sparsely():
    assert not codec("topk:0.1").carries_weights
    with pytest.raises(ValueError, match="whole weights"):
        codec("topk:0.1").round([normal(300)], [variable((300,))])


def test_at_least_one_value_travels():
    assert TopK(0.0001).kept(256) == 1
    assert TopK(0.5).kept(257) == 129
