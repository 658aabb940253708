"""Spread over nodes: the one that suffers is named."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.spread import Spread

figures = st.dictionaries(st.text(max_size=3), st.floats(-1e100, 1e100), min_size=1)


def test_the_node_with_the_largest_loss_suffers():
    assert Spread.of({"a": 1.0, "b": 9.0, "c": 2.0}) == Spread(9.0, 2.0, 1.0, "b", 3)


def test_of_an_auroc_the_smallest_is_worst():
    assert Spread.of({"a": 0.9, "b": 0.5, "c": 0.8}, larger_is_better=True) == Spread(0.5, 0.8, 0.9, "b", 3)


def test_a_figure_that_is_no_number_is_the_worst():
    found = Spread.of({"a": 1.0, "b": math.nan, "c": math.inf})
    assert found.worst_node in ("b", "c")
    assert (found.best, found.nodes) == (1.0, 3)
    assert Spread.of({"a": 0.9, "b": math.nan}, larger_is_better=True).worst_node == "b"


@given(figures)
def test_the_median_lies_between_worst_and_best(values):
    found = Spread.of(values)
    assert found.best <= found.median <= found.worst
    assert found.worst == max(values.values())
    assert values[found.worst_node] == found.worst


def test_of_two_nodes_the_median_is_in_the_middle():
    assert Spread.of({"a": 1.0, "b": 2.0}).median == pytest.approx(1.5)


def test_without_nodes_there_is_none():
    assert Spread.of({}) is None
