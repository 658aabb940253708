"""Robust reductions against plain renderings of their papers, and against liars."""

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dl_mqtt_clients.aggregation.strategies import Bulyan, Facts, Krum, Median, MultiKrum, Stack, TrimmedMean, sorting
from dl_mqtt_clients.aggregation.strategies import stack as stack_module
from dl_mqtt_clients.aggregation.strategies.bulyan import mean_around_median
from dl_mqtt_clients.aggregation.strategies.sorting import network, sorted_rows
from dl_mqtt_clients.errors import RefusedError
from strategy_helpers import SIZE, change, flat, merge, updates_of


def rows(n, width=4, limit=50):
    """n rows of whole numbers: distances are then exact, so that a plain rendering and ours see the same ties."""
    return hnp.arrays(np.int64, (n, width), elements=st.integers(-limit, limit))


# ---- plain renderings ----


def plain_krum_scores(points, f, among):
    """Blanchard et al. 2017, section 4."""
    scores = {}
    for i in among:
        distances = sorted(int(((points[i] - points[j]) ** 2).sum()) for j in among if j != i)
        scores[i] = sum(distances[: max(len(among) - f - 2, 1)])
    return scores


def plain_krum(points, f, m=1):
    scores = plain_krum_scores(points, f, range(len(points)))
    best = sorted(scores, key=lambda i: (scores[i], i))[:m]
    return np.mean([points[i] for i in best], axis=0)


def plain_bulyan(points, f):
    """El Mhamdi et al. 2018, section 4: select θ = n - 2f with Krum, then average the β = θ - 2f about the median."""
    left, selected = list(range(len(points))), []
    while len(selected) < len(points) - 2 * f:
        scores = plain_krum_scores(points, f, left)
        best = min(left, key=lambda i: (scores[i], i))
        selected.append(best)
        left.remove(best)
    result = []
    for column in points[selected].T:
        median = statistics.median(column.tolist())
        nearest = sorted(column.tolist(), key=lambda x: (abs(x - median), x))[: len(selected) - 2 * f]
        result.append(statistics.fmean(nearest))
    return result


def plain_trimmed(points, trimmed):
    return [statistics.fmean(sorted(column)[trimmed : len(column) - trimmed]) for column in points.T.tolist()]


@given(st.integers(1, 12).flatmap(rows))
def test_the_median_is_each_coordinates_median(points):
    assert change(Median(), points).tolist() == [statistics.median(column) for column in points.T.tolist()]


@given(st.integers(1, 12).flatmap(rows), st.sampled_from([0.0, 0.1, 0.25, 0.4]))
def test_the_trimmed_mean_leaves_out_a_share_at_each_end(points, share):
    trimmed = TrimmedMean(share).trimmed(len(points))
    assert np.allclose(change(TrimmedMean(share), points), plain_trimmed(points, trimmed))


@pytest.mark.parametrize(
    ("share", "n", "trimmed"),
    [(0.1, 10, 1), (0.1, 5, 1), (0.1, 2, 0), (0.0, 9, 0), (0.29, 100, 29), (0.07, 100, 7), (0.49, 3, 1), (0.2, 1, 0)],
)
def test_how_many_are_trimmed(share, n, trimmed):
    assert TrimmedMean(share).trimmed(n) == trimmed


@given(st.integers(0, 2).flatmap(lambda f: st.tuples(st.just(f), st.integers(2 * f + 3, 9).flatmap(rows))))
def test_krum_takes_the_update_with_the_best_score(case):
    f, points = case
    assert change(Krum(f), points).tolist() == plain_krum(points, f).tolist()


@given(rows(9), st.integers(1, 7))
def test_multi_krum_averages_the_m_best(points, m):
    assert np.allclose(change(MultiKrum(f=2, m=m), points), plain_krum(points, 2, m))


@given(st.integers(0, 2).flatmap(lambda f: st.tuples(st.just(f), st.integers(4 * f + 3, 12).flatmap(rows))))
def test_bulyan_selects_then_averages_about_the_median(case):
    f, points = case
    assert np.allclose(change(Bulyan(f), points), plain_bulyan(points, f))


# ---- known points ----


def test_the_median_of_known_points():
    assert change(Median(), [[1, 10], [2, 30], [90, 20]]).tolist() == [2, 20]
    assert change(Median(), [[1, 10], [2, 30], [90, 20], [3, 0]]).tolist() == [2.5, 15]


def test_krum_picks_out_of_the_cluster():
    cluster = [[1.0, 1.0], [1.1, 1.0], [1.0, 1.1], [0.9, 1.0]]
    assert change(Krum(1), [*cluster, [-60.0, 80.0]]) == pytest.approx([1.0, 1.0])


def test_of_equal_scores_the_first_node_by_id_is_taken():
    square = [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert change(Krum(0), square).tolist() == [1, 0]
    assert change(Krum(0), [square[k] for k in (2, 1, 0, 3)]).tolist() == [-1, 0]


# ---- laws ----

ROBUST = {
    "median": (Median(), 4),
    "trimmed mean": (TrimmedMean(0.4), 4),
    "Krum": (Krum(2), 2),
    "multi-Krum": (MultiKrum(f=2, m=4), 2),
    "Bulyan": (Bulyan(2), 2),
}  # f of 11 nodes may lie


@pytest.mark.parametrize("name", ROBUST)
@given(row=st.lists(st.integers(-50, 50), min_size=3, max_size=3), n=st.integers(11, 13))
def test_of_identical_updates_it_makes_the_update(name, row, n):
    assert np.allclose(change(ROBUST[name][0], [row] * n), row)


@pytest.mark.parametrize("name", ["median", "trimmed mean", "Bulyan"])
@given(data=st.data())
def test_liars_cannot_move_a_coordinate_out_of_the_honest_range(name, data):
    rule, f = ROBUST[name]
    honest = data.draw(rows(11 - f, 3, 20))
    lies = data.draw(rows(f, 3, 100))
    order = data.draw(st.permutations(range(11)))
    result = change(rule, np.vstack([honest, lies])[order])
    assert (result >= honest.min(axis=0) - 1e-9).all()
    assert (result <= honest.max(axis=0) + 1e-9).all()


@pytest.mark.parametrize("name", ["Krum", "multi-Krum"])
@given(honest=rows(9, 3, 2), lies=rows(2, 3, 10), order=st.permutations(range(11)))
def test_far_away_liars_are_not_chosen(name, honest, lies, order):
    rule, _ = ROBUST[name]
    result = change(rule, np.vstack([honest, lies + 80])[order])
    assert (result >= honest.min(axis=0)).all()
    assert (result <= honest.max(axis=0)).all()


@pytest.mark.parametrize("name", ROBUST)
@given(points=rows(11, 3, 30), shift=st.integers(-20, 20), factor=st.sampled_from([0.5, 2.0]))
def test_moving_and_scaling_all_updates_moves_and_scales_the_result(name, points, shift, factor):
    rule, _ = ROBUST[name]
    assert np.allclose(change(rule, factor * (points + shift)), factor * (change(rule, points) + shift))


@pytest.mark.parametrize("name", ROBUST)
def test_too_few_updates_are_refused_with_how_many_it_takes(name):
    rule, _ = ROBUST[name]
    least = getattr(rule, "min_updates", 1)
    updates = updates_of(np.ones((max(least - 1, 0), SIZE)))
    with pytest.raises(RefusedError, match=rf"{type(rule).__name__}.*expected at least {least} updates. Received: "):
        merge(rule, updates)


@pytest.mark.parametrize("rule", [Krum(1), MultiKrum(1, 3), Bulyan(1)])
def test_used_alone_it_refuses_too(rule):
    stack = Stack([Facts(node=str(k), examples=1) for k in range(4)], [[np.float32([k])] for k in range(4)])
    with pytest.raises(RefusedError, match="expected at least"):
        rule.reduce(stack)


# ---- blocks ----


@pytest.mark.parametrize("name", ROBUST)
def test_many_blocks_give_what_one_block_gives(name, monkeypatch):
    rule, _ = ROBUST[name]
    points = np.random.default_rng(3).standard_normal((11, SIZE))
    whole = flat(merge(rule, updates_of(points)).change)
    monkeypatch.setattr(stack_module, "BLOCK_VALUES", 1)
    monkeypatch.setattr(stack_module, "MIN_WIDTH", 2)
    assert flat(merge(rule, updates_of(points)).change).tobytes() == whole.tobytes()


def test_a_stack_never_holds_more_than_a_block(monkeypatch):
    monkeypatch.setattr(stack_module, "BLOCK_VALUES", 40)
    monkeypatch.setattr(stack_module, "MIN_WIDTH", 2)
    seen = []
    stack = Stack([Facts(node=str(k), examples=1) for k in range(4)], [[np.arange(95, dtype=np.float32)]] * 4)
    (result,) = stack.map(lambda block: seen.append(block.shape) or block[0])
    assert result.tolist() == list(range(95))
    assert seen == [(4, 10)] * 9 + [(4, 5)]


def test_updates_are_not_written_to():
    points = np.random.default_rng(3).standard_normal((11, SIZE)).astype(np.float32)
    updates = updates_of(points)
    for update in updates:
        for array in update.arrays:
            array.setflags(write=False)
    for rule, _ in ROBUST.values():
        merge(rule, updates)
    assert flat(updates[4].arrays).tolist() == points[4].tolist()


def test_float64_updates_keep_their_precision():
    stack = Stack([Facts(node=str(k), examples=1) for k in range(3)], [[np.array([1 + k * 1e-12])] for k in range(3)])
    assert Median().reduce(stack)[0][0] == 1 + 1e-12


@given(st.integers(2, 8).flatmap(lambda n: rows(n, 6)))
def test_distances_are_the_squared_euclidean_ones(points):
    stack = Stack([Facts(node=str(k), examples=1) for k in range(len(points))], [[np.float32(p)] for p in points])
    expected = ((points[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    assert np.allclose(stack.distances(), expected, atol=1e-6)
    assert (np.diag(stack.distances()) == 0).all()


def test_distances_of_equal_large_updates_are_not_negative():
    row = np.random.default_rng(5).uniform(50, 100, 9999).astype(np.float32)
    stack = Stack([Facts(node=str(k), examples=1) for k in range(5)], [[row]] * 5)
    assert (stack.distances() >= 0).all()
    assert stack.distances().max() <= 1e-9 * float(np.sum(row.astype(float) ** 2))


# ---- sorting ----


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16])
def test_the_network_sorts(n):
    """By the 0-1 principle it sorts everything when it sorts every row of zeros and ones (or a sample of them)."""
    codes = np.arange(2**n) if n <= 12 else np.random.default_rng(n).integers(0, 2**n, 4000)
    columns = (codes[None, :] >> np.arange(n)[:, None]) & 1
    result = np.array(sorted_rows(columns.astype(np.float32), range(n)))
    assert (result == np.sort(columns, axis=0)).all()


@given(st.integers(1, 40), st.data())
def test_only_the_wanted_rows_are_put_right(n, data):
    wanted = tuple(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=3)))
    block = np.random.default_rng(n).standard_normal((n, 20)).astype(np.float32)
    expected = np.sort(block, axis=0)
    assert len(network(n, wanted)) <= len(network(n, tuple(range(n))))
    for place, row in zip(wanted, sorted_rows(block.copy(), wanted), strict=True):
        assert (row == expected[place]).all()


def test_more_rows_than_the_network_takes_are_sorted_by_column(monkeypatch):
    block = np.random.default_rng(0).standard_normal((9, 30)).astype(np.float32)
    by_network = sorted_rows(block.copy(), (0, 4))
    monkeypatch.setattr(sorting, "MAX_NETWORK", 8)
    by_column = sorted_rows(block.copy(), (0, 4))
    assert all((a == b).all() for a, b in zip(by_network, by_column, strict=True))


# ---- ties ----


def test_multi_krum_takes_the_first_nodes_of_many_equals():
    """Scores of the first two kinds are equal; the third is far away. Most sorts shuffle so many equals."""
    points = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 100]] * 40)
    assert change(MultiKrum(f=0, m=5), points).tolist() == [0.6, 0.4, 0]


def test_bulyan_takes_the_smaller_of_two_equally_near_values():
    """Chosen: -1 -1 0 1 1 of seven; three are averaged, and both sides are equally near to the median 0."""
    block = np.float32([[1], [-1], [0], [-1], [1]])
    assert mean_around_median(block, 3) == pytest.approx([-2 / 3])
