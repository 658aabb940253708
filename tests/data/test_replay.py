import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.replay import Replay, encode_readings
from dl_mqtt_clients.errors import DataError


def rows(replay, *, batches=None):
    """(due, row) of every reading."""
    return [(due, int(row)) for due, index in itertools.islice(replay, batches) for row in index]


def test_without_cycles_all_rows_come_once_in_order(make_dataset):
    replay = Replay(make_dataset([0, 1, 0]), rate=2, loop=False)
    assert rows(replay) == [(0.0, 0), (0.5, 1), (1.0, 2)]
    assert rows(replay) == rows(replay)  # iterating begins anew


def test_looping_begins_again(make_dataset):
    assert [row for _, row in rows(Replay(make_dataset([0, 1, 0]), rate=1), batches=7)] == [0, 1, 2, 0, 1, 2, 0]


def test_a_duration_ends_it(make_dataset):
    found = rows(Replay(make_dataset([0] * 3), rate=10, duration_s=1.0, batch=4))
    assert len(found) == 10
    assert max(due for due, _ in found) < 1.0


def test_cycles_alternate_and_each_kind_goes_on_where_it_stopped(make_dataset):
    dataset = make_dataset([0, 0, 0, 1, 1])
    replay = Replay(dataset, rate=2, normal_s=1.0, anomalous_s=0.5)
    assert rows(replay, batches=7) == [(0, 0), (0.5, 1), (1, 3), (1.5, 2), (2, 0), (2.5, 4), (3, 1)]
    start = Replay(dataset, rate=2, normal_s=1.0, anomalous_s=0.5, start="anomalous")
    assert [row for _, row in rows(start, batches=4)] == [3, 0, 1, 4]


def test_without_loop_cycles_end_with_the_first_kind_that_is_exhausted(make_dataset):
    replay = Replay(make_dataset([0, 0, 0, 1, 1]), rate=1, normal_s=1, anomalous_s=1, loop=False)
    assert [row for _, row in rows(replay)] == [0, 3, 1, 4, 2]


@pytest.mark.parametrize(("seconds", "expected"), [({"normal_s": 1}, {0, 1}), ({"anomalous_s": 1}, {2})])
def test_one_duration_gives_that_kind_only(make_dataset, seconds, expected):
    assert {row for _, row in rows(Replay(make_dataset([0, 0, 1]), rate=1, **seconds), batches=20)} == expected


def test_a_seed_shuffles_each_pass(make_dataset):
    dataset = make_dataset([0] * 50)
    found = [row for _, row in rows(Replay(dataset, rate=1, seed=1), batches=100)]
    assert sorted(found[:50]) == sorted(found[50:]) == list(range(50))
    assert found[:50] != found[50:] != list(range(50))


def test_at_rate_0_everything_is_due_at_once(make_dataset):
    assert rows(Replay(make_dataset([0, 0]), rate=0, loop=False)) == [(0.0, 0), (0.0, 1)]


@given(
    st.integers(1, 7),
    st.floats(0.5, 50),
    st.sampled_from([(0, 0), (1, 0.3), (0.2, 2.0)]),
    st.floats(0.1, 5),
    st.sampled_from(["normal", "anomalous"]),
)
def test_batches_keep_to_the_rate_and_never_mix_kinds(batch, rate, cycle, duration, start):
    from dl_mqtt_clients.data.dataset import Dataset

    y = np.array([0, 1, 0, 0, 1, 0, 0], np.int8)
    dataset = Dataset(np.zeros((7, 1), np.float32), y, ("a",))
    replay = Replay(
        dataset, rate=rate, batch=batch, normal_s=cycle[0], anomalous_s=cycle[1], duration_s=duration, start=start
    )
    sent = 0
    for due, index in replay:
        assert due == pytest.approx(sent / rate)
        assert 1 <= len(index) <= batch
        if cycle != (0, 0):
            assert len(set(dataset.y[index].tolist())) == 1
        sent += len(index)
    assert sent == round(duration * rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -1}, "≥ 0"),
        ({"rate": 1, "batch": 0}, "batch ≥ 1"),
        ({"rate": 0, "normal_s": 1}, "rate > 0"),
        ({"rate": 1, "anomalous_s": 1}, "expected anomalous rows in 'made'"),
    ],
)
def test_what_cannot_be_replayed(make_dataset, options, message):
    with pytest.raises(DataError, match=message):
        Replay(make_dataset([0, 0]), **options)


def test_one_reading_has_the_original_form_and_unknown_labels_stay_unsaid():
    x = np.array([[1.5, 2]], np.float32)
    assert json.loads(encode_readings(x)) == {"data": [1.5, 2]}
    assert json.loads(encode_readings(x, [-1], [7], [3.5])) == {"data": [1.5, 2], "id": 7, "timestamp": 3.5}
    two = json.loads(encode_readings(np.tile(x, (2, 1)), [-1, 1], feature_names=["a", "b"], label="sus"))
    assert two == {"data": [{"a": 1.5, "b": 2}] * 2, "sus": [None, 1]}
