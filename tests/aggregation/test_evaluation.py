"""Sums of what nodes find: they add up to what all readings together would give."""

import numpy as np
import pytest

from dl_mqtt_clients.aggregation import histogram
from dl_mqtt_clients.aggregation.evaluation import LARGEST, Evaluation, Sums
from dl_mqtt_clients.wire.messages import Found, Histogram, Statistics

SHA, BEST = "a" * 64, "b" * 64


def scores_of(seed: int, rows: int = 500) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(-1, 2, rows).astype(np.int8)
    return rng.exponential(np.where(labels > 0, 3.0, 1.0)).astype(np.float32), labels


def told(*seeds: int, role: str = "trainer") -> Evaluation:
    evaluation = Evaluation(SHA, best=BEST)
    for seed in seeds:
        scores, labels = scores_of(seed)
        of_best = Sums.of(scores * 2, labels).to_message()
        found = Sums.of(scores, labels).to_message()
        evaluation.add(f"n{seed}", role, Statistics(version=SHA, found=found, best=BEST, found_of_best=of_best))
    return evaluation


def test_the_federated_figures_are_those_of_all_readings_together():
    parts = [scores_of(seed) for seed in (1, 2, 3)]
    scores, labels = (np.concatenate(p) for p in zip(*parts, strict=True))
    metrics = told(1, 2, 3).metrics(threshold=2.0)
    assert metrics.holdout_loss == pytest.approx(scores[labels <= 0].mean(), rel=1e-6)
    positive, negative = scores[labels > 0], scores[labels == 0]
    exact = (positive[:, None] > negative[None, :]).mean()
    assert metrics.auroc == pytest.approx(exact, abs=0.01)
    found = metrics.verdicts
    assert found.true_positives == pytest.approx((positive > 2.0).sum(), rel=0.05)
    assert found.true_positives + found.false_negatives == len(positive)
    assert found.false_positives + found.true_negatives == len(negative)


def test_the_node_that_suffers_is_named():
    spread = told(1, 2, 3).metrics().loss_spread
    losses = {f"n{s}": x[y <= 0].mean() for s in (1, 2, 3) for x, y in [scores_of(s)]}
    assert spread.worst_node == max(losses, key=losses.get)
    assert spread.best <= spread.median <= spread.worst


def test_both_versions_are_told_as_a_pair():
    candidate, best = told(1, 2).qualities()
    assert candidate.keys() == best.keys() == {"n1", "n2"}
    assert best["n1"].loss == pytest.approx(2 * candidate["n1"].loss, rel=1e-6)


def test_what_was_found_of_another_best_is_no_pair():
    evaluation = Evaluation(SHA, best="c" * 64)
    found = Sums.of(*scores_of(1)).to_message()
    evaluation.add("n1", "trainer", Statistics(version=SHA, found=found, best=BEST, found_of_best=found))
    assert evaluation.qualities()[1] == {}


def test_predictors_count_for_labels_but_not_for_threshold_or_loss():
    evaluation = told(1, role="predictor")
    assert evaluation.threshold(0.5) is None
    assert evaluation.metrics().holdout_loss is None
    assert evaluation.metrics().auroc is not None
    assert evaluation.qualities()[0] == {}


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_scores_that_are_no_number_are_as_bad_as_can_be(score):
    sums = Sums.of(np.array([1.0, score], np.float32), np.array([0, -1], np.int8))
    assert sums.quality().loss == pytest.approx(LARGEST / 2)
    assert Sums.from_message(sums.to_message()).normal[-1] == 1


def test_a_histogram_that_is_not_ours_is_refused():
    with pytest.raises(ValueError, match="histogram: expected distinct bins"):
        Evaluation(SHA).add(
            "n", "trainer", Statistics(version=SHA, found=Found(normal=Histogram(bins=(histogram.BINS,), counts=(1,))))
        )
