"""The cohort: drawn by everybody alike, without a message."""

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.cohort import draw, fit_seed, is_drawn

seeds = st.text(max_size=20)
numbers = st.integers(0, 10**6)
nodes = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def test_the_draw_is_pinned():
    """Another implementation must draw the same nodes."""
    digest = hashlib.sha256(b"2024\n7\n2\njetson-07").digest()
    value = draw("2024", round_number=7, attempt=2, node="jetson-07")
    assert value == int.from_bytes(digest[:8], "big") / 2**64
    assert value == 0.9365305264343297


def test_the_seed_of_a_fit_is_pinned():
    assert fit_seed("2024", round_number=7, attempt=2, node="jetson-07") == 2204562389


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9])
def test_about_the_fraction_of_all_nodes_is_drawn(fraction):
    """Within four standard deviations, for this seed."""
    drawn = sum(is_drawn("s", round_number=1, attempt=1, node=f"n{k}", fraction=fraction) for k in range(4000))
    assert abs(drawn - 4000 * fraction) < 4 * math.sqrt(4000 * fraction * (1 - fraction))


@pytest.mark.parametrize("changed", [{"round_number": 2}, {"attempt": 2}, {"seed": "other"}])
def test_another_round_attempt_or_seed_draws_others(changed):
    def cohort(seed="s", round_number=1, attempt=1):
        return {
            k
            for k in range(1000)
            if is_drawn(seed, round_number=round_number, attempt=attempt, node=f"n{k}", fraction=0.5)
        }

    both = cohort() & cohort(**changed)
    assert 150 < len(both) < 350  # independent: a quarter


@given(seeds, numbers, numbers, nodes)
def test_a_fraction_of_one_takes_everybody_and_of_zero_nobody(seed, round_number, attempt, node):
    assert is_drawn(seed, round_number=round_number, attempt=attempt, node=node, fraction=1.0)
    assert not is_drawn(seed, round_number=round_number, attempt=attempt, node=node, fraction=0.0)


@given(seeds, numbers, numbers, nodes, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_only_adds_nodes(seed, round_number, attempt, node, one, other):
    small, large = sorted((one, other))
    if is_drawn(seed, round_number=round_number, attempt=attempt, node=node, fraction=small):
        assert is_drawn(seed, round_number=round_number, attempt=attempt, node=node, fraction=large)


@given(seeds, numbers, numbers, nodes)
def test_the_seed_of_a_fit_repeats_and_has_32_bits(seed, round_number, attempt, node):
    first = fit_seed(seed, round_number=round_number, attempt=attempt, node=node)
    assert first == fit_seed(seed, round_number=round_number, attempt=attempt, node=node)
    assert 0 <= first < 2**32


def test_a_thousand_nodes_have_different_fits():
    assert len({fit_seed("s", round_number=1, attempt=1, node=f"n{k}") for k in range(1000)}) == 1000
