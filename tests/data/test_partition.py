import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.data.partition import partition
from dl_mqtt_clients.errors import DataError


@st.composite
def datasets(draw):
    n = draw(st.integers(1, 60))
    y = draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n))
    groups = draw(st.lists(st.sampled_from("pqrst"), min_size=n, max_size=n))
    return Dataset(np.zeros((n, 1), np.float32), np.array(y, np.int8), ("a",), np.array(groups, object), "made")


@given(
    datasets(),
    st.integers(1, 8),
    st.sampled_from(["even", "group", "dirichlet"]),
    st.floats(1e-320, 1e3),
    st.integers(0, 9),
)
def test_a_partition_is_disjoint_complete_ordered_and_leaves_no_node_empty(dataset, nodes, by, alpha, seed):
    enough = len(set(dataset.groups)) if by == "group" else len(dataset)
    if nodes > enough:
        with pytest.raises(DataError, match="partition"):
            partition(dataset, nodes, by=by, alpha=alpha, seed=seed)
        return
    parts = partition(dataset, nodes, by=by, alpha=alpha, seed=seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(dataset)))
    assert len(parts) == nodes
    assert all(len(part) > 0 and (np.diff(part) > 0).all() for part in parts)
    again = partition(dataset, [f"n{k}" for k in range(nodes)], by=by, alpha=alpha, seed=seed)
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]
    if by == "even":
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    if by == "group":
        held = [set(dataset.groups[part]) for part in parts]
        assert sum(map(len, held)) == len(set(dataset.groups))  # no group at two nodes


def test_the_largest_group_is_dealt_first(make_dataset):
    dataset = make_dataset([0] * 10, ["small", "small", *["large"] * 5, *["middle"] * 3])
    parts = partition(dataset, 2, by="group")
    assert [set(dataset.groups[part]) for part in parts] == [{"large"}, {"small", "middle"}]


def test_a_small_alpha_skews_labels_and_a_large_one_does_not(make_dataset):
    dataset = make_dataset([0, 1] * 1000)

    def skew(alpha):
        parts = partition(dataset, 4, by="dirichlet", alpha=alpha, seed=1)
        return np.mean([abs(dataset.y[part].mean() - 0.5) for part in parts])

    assert skew(0.05) > 0.25
    assert skew(1000) < 0.05


def test_with_labels_of_one_class_groups_are_skewed(make_dataset):
    dataset = make_dataset([0] * 100, ["p", "q"] * 50)
    parts = partition(dataset, 2, by="dirichlet", alpha=0.05)
    assert any(abs((dataset.groups[part] == "p").mean() - 0.5) > 0.2 for part in parts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "from 1 to 3 nodes"),
        ({"nodes": 4}, "from 1 to 3 nodes"),
        ({"nodes": 2, "by": "group"}, "expected groups in 'made'"),
        ({"nodes": 2, "by": "dirichlet"}, "several classes, or groups"),
        ({"nodes": 2, "by": "random"}, "even, group or dirichlet"),
    ],
)
def test_what_cannot_be_shared_out(make_dataset, options, message):
    with pytest.raises(DataError, match=message):
        partition(make_dataset([0, 0, 0]), **options)


def test_alpha_must_be_positive(make_dataset):
    with pytest.raises(DataError, match="alpha > 0"):
        partition(make_dataset([0, 1, 0]), 2, by="dirichlet", alpha=0.0)
