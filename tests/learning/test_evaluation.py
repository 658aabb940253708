import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.evaluation import auroc, average_precision

pairs = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


def test_a_perfect_and_an_inverted_order():
    assert auroc([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1.0
    assert auroc([0.9, 0.8, 0.2, 0.1], [0, 0, 1, 1]) == 0.0
    assert average_precision([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]) == 1.0


def test_equal_scores_say_nothing():
    assert auroc([1, 1, 1, 1], [0, 1, 0, 1]) == 0.5
    assert average_precision([1, 1, 1, 1], [0, 1, 0, 0]) == 0.25


def test_one_class_alone_has_no_auroc():
    assert auroc([1, 2], [0, 0]) is None
    assert auroc([1, 2], [1, 1]) is None
    assert average_precision([1, 2], [0, 0]) is None


@given(pairs)
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows):
    positive = [s for s, label in rows if label]
    negative = [s for s, label in rows if not label]
    wins = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    expected = np.mean(wins) if wins else None
    assert auroc(*zip(*rows, strict=True)) == (pytest.approx(expected) if wins else None)


@given(pairs)
def test_average_precision_is_the_sum_over_thresholds(rows):
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    if not labels.any():
        return
    expected, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        caught = scores >= threshold
        now = labels[caught].sum() / labels.sum()
        expected += (now - recall) * labels[caught].mean()
        recall = now
    assert average_precision(scores, labels) == pytest.approx(expected)


def test_nan_and_uneven_lengths_are_refused():
    with pytest.raises(ModelError, match="NaN"):
        auroc([1, np.nan], [0, 1])
    with pytest.raises(ModelError, match="one length"):
        auroc([1, 2], [0])
