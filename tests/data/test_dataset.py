import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dl_mqtt_clients.data.dataset import Dataset, concat
from dl_mqtt_clients.data.split import split_rows, spread_rows
from dl_mqtt_clients.errors import DataError


def test_selecting_keeps_rows_labels_and_groups_together(make_dataset):
    chosen = make_dataset([0, 1, 2], ["p", "q", "r"]).select(np.array([2, 0]))
    assert (chosen.x[:, 0].tolist(), chosen.y.tolist(), chosen.groups.tolist()) == ([2, 0], [2, 0], ["r", "p"])


def test_normal_and_anomalous_rows_are_the_whole(make_dataset):
    dataset = make_dataset([0, 1, -1, 5])
    assert dataset.normal().x[:, 0].tolist() == [0, 2]
    assert dataset.anomalous().x[:, 0].tolist() == [1, 3]


def test_joining_what_was_cut_gives_it_back(make_dataset):
    dataset = make_dataset([0, 1, 2, 3], list("pqrs"))
    joined = concat([dataset.select(slice(0, 1)), dataset.select(slice(1, 4))])
    np.testing.assert_array_equal(joined.x, dataset.x)
    assert joined.groups.tolist() == dataset.groups.tolist()
    with pytest.raises(DataError, match="concat"):
        concat([])


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"x": np.zeros((2, 3), np.float32)}, "x: expected"),
        ({"y": np.zeros(3, np.int8)}, "x: expected"),
        ({"groups": np.array(["p"])}, "groups: expected"),
        ({"features": ("a", "a")}, "features: expected different"),
        ({"x": np.array([[0, 1], [0, np.nan]], np.float32)}, "b: expected finite"),
    ],
)
def test_arrays_that_do_not_fit_together(change, place):
    whole = {"x": np.zeros((2, 2), np.float32), "y": np.zeros(2, np.int8), "features": ("a", "b")}
    with pytest.raises(DataError, match=place):
        Dataset(**{**whole, **change})


@example(2, [0.28125, 0.28125, 0.28125], 0)
@given(st.integers(0, 200), st.lists(st.floats(0, 0.3), min_size=1, max_size=3), st.integers(0, 5))
def test_a_split_is_disjoint_complete_and_in_order(n, shares, seed):
    parts = split_rows(n, shares, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert all(abs(len(part) - n * share) <= 1 for part, share in zip(parts[1:], shares, strict=True))


def test_a_split_that_leaves_nothing_is_refused():
    with pytest.raises(DataError, match="below 1"):
        split_rows(10, (0.5, 0.5))


@given(st.integers(0, 100), st.integers(1, 100))
def test_spread_rows_are_different_and_not_too_many(n, at_most):
    rows = spread_rows(n, at_most).tolist()
    assert len(set(rows)) == len(rows) == min(n, at_most)
    assert all(0 <= row < n for row in rows)
