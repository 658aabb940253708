"""The gate: small steps do not add up, ruined versions do not pass, honest noise does."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.promotion import Change, Quality, decide

losses = st.dictionaries(st.sampled_from([f"n{i}" for i in range(8)]), st.floats(1e-6, 1e6), min_size=1)


def fleet(*values: float, auroc: float | None = None) -> dict[str, Quality]:
    return {f"n{i}": Quality(value, auroc) for i, value in enumerate(values)}


def scaled(best: dict[str, Quality], factor: float) -> dict[str, Quality]:
    return {node: Quality(quality.loss * factor, quality.auroc) for node, quality in best.items()}


BEST = fleet(1.0, 0.5, 2.0, 0.1, 3.0)


# ---- small steps ----


def test_a_hundred_small_deteriorations_do_not_pass_one_by_one():
    best, promoted = BEST, []
    for step in range(1, 101):
        candidate = scaled(BEST, 1.005**step)
        verdict = decide(candidate, best, tolerance=0.02, min_nodes=3)
        if verdict.decision == "promote":
            promoted.append(step)
            best = candidate if verdict.becomes_best else best
    assert promoted == [1, 2, 3, 4]  # the fifth is 2.5% above


@pytest.mark.parametrize("seed", range(5))
def test_nor_do_they_pass_under_the_cover_of_noise(seed):
    """Each version is 0.1% worse in truth; each holdout, new for each comparison, hides it under 5% a node."""
    rng = np.random.default_rng(seed)
    best_truth, in_production = 1.0, []
    for step in range(1, 301):
        truth = 1.001**step
        holdout = rng.lognormal(0.0, 1.0, size=10)
        best = fleet(*(best_truth * holdout * rng.lognormal(0, 0.05, 10)))
        verdict = decide(fleet(*(truth * holdout * rng.lognormal(0, 0.05, 10))), best, tolerance=0.02, min_nodes=5)
        if verdict.decision == "promote":
            in_production.append(truth)
            best_truth = truth if verdict.becomes_best else best_truth
    assert max(in_production) < 1.15  # of 1.35; compared with the last instead, nearly all pass
    assert best_truth < 1.05


def test_many_small_improvements_do_add_up():
    """Each is within the doubt; together they are not, and become the best."""
    best, changes = BEST, 0
    for step in range(1, 51):
        candidate = scaled(BEST, 0.995**step)
        verdict = decide(candidate, best, tolerance=0.02, min_nodes=3)
        assert verdict.decision == "promote"
        best, changes = (candidate, changes + 1) if verdict.becomes_best else (best, changes)
    assert changes > 5
    assert best["n0"].loss < 0.8


# ---- ruined versions ----


@pytest.mark.parametrize("broken", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize("best", [BEST, None])
def test_a_loss_that_is_no_number_never_passes(broken, best):
    candidate = {**scaled(BEST, 0.5), "n3": Quality(broken)}
    verdict = decide(candidate, best, min_nodes=1)
    assert verdict.decision == "reject"
    assert verdict.reason.endswith("on n3")


def test_nor_does_one_of_an_auroc_that_is_no_number():
    assert decide(fleet(0.5, auroc=math.nan), fleet(1.0, auroc=0.9)).decision == "reject"


def test_a_version_far_worse_on_half_of_the_nodes_is_rejected():
    candidate = {node: Quality(q.loss * (10 if node in ("n0", "n1", "n2") else 1)) for node, q in BEST.items()}
    assert decide(candidate, BEST, tolerance=0.02, min_nodes=3).decision == "reject"


def test_one_node_that_suffers_much_does_not_excuse_itself_by_the_noise_it_makes():
    best = fleet(*[1.0] * 20)
    verdict = decide({**best, "n7": Quality(20.0)}, best, tolerance=0.02, max_noise=0.05)
    assert verdict.loss.mean == pytest.approx(verdict.loss.standard_error)
    assert verdict.decision == "reject"
    assert verdict.worst_node == "n7"


def test_one_lying_node_cannot_push_a_bad_version_through():
    best = {**fleet(*[1.0] * 10), "liar": Quality(1e300)}
    candidate = {**fleet(*[2.0] * 10), "liar": Quality(0.0)}
    assert decide(candidate, best, min_nodes=3).decision == "reject"
    slightly = {**fleet(*[1.15] * 10), "liar": Quality(0.0)}
    verdict = decide(slightly, best, min_nodes=3)
    assert verdict.loss.mean < 0  # the mean alone would let it pass
    assert verdict.decision == "reject"


# ---- noise ----


def test_noise_between_nodes_is_forgiven_and_the_same_loss_without_it_is_not():
    best = fleet(*[1.0] * 6)
    noisy = fleet(1.3, 0.8, 1.25, 0.85, 1.2, 0.84)
    even = fleet(*[1.0 + np.mean([q.loss for q in noisy.values()]) - 1.0] * 6)
    assert decide(noisy, best, tolerance=0.0).decision == "promote"
    assert decide(even, best, tolerance=0.0).decision == "reject"


def test_the_allowance_is_tolerance_plus_standard_error_of_the_pairs():
    change = Change.of([0.1, 0.3, 0.2])
    assert change.mean == pytest.approx(0.2)
    assert Change.of([0.0, 0.1, 0.8]).worse == pytest.approx(0.3)
    assert Change.of([-0.8, 0.1, 0.1]).worse == pytest.approx(0.1)
    assert change.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert change.allowed(tolerance=0.02, max_noise=1.0) == pytest.approx(0.02 + 0.1 / math.sqrt(3))
    assert change.allowed(tolerance=0.02, max_noise=0.01) == pytest.approx(0.03)
    assert Change.of([0.1]).standard_error == 0


def test_a_hard_holdout_does_not_count_against_a_version():
    """The best scores badly on it, too."""
    assert decide(scaled(BEST, 1000.0), scaled(BEST, 1000.0)).decision == "promote"


def test_every_node_counts_alike_however_large_its_loss():
    best = fleet(1000.0, 1.0, 1.0, 1.0)
    assert decide(fleet(900.0, 1.2, 1.2, 1.2), best).decision == "reject"


@given(losses)
def test_a_version_is_as_good_as_itself(values):
    same = {node: Quality(loss) for node, loss in values.items()}
    verdict = decide(same, same, tolerance=0.0, min_nodes=0)
    assert verdict.decision == "promote"
    assert not verdict.becomes_best
    assert verdict.loss.mean == 0


@given(losses, losses, st.floats(1e-3, 1e3))
def test_the_unit_of_the_loss_does_not_matter(one, other, unit):
    a, b = ({node: Quality(loss) for node, loss in values.items()} for values in (one, other))
    first, second = decide(a, b), decide(scaled(a, unit), scaled(b, unit))
    if first.loss is not None:
        assert second.loss.mean == pytest.approx(first.loss.mean, abs=1e-9)


@given(losses, losses)
def test_of_two_versions_one_at_most_is_better_than_the_other(one, other):
    a, b = ({node: Quality(loss) for node, loss in values.items()} for values in (one, other))
    assert not (decide(a, b).becomes_best and decide(b, a).becomes_best)


def test_losses_of_zero_are_equal():
    assert decide(fleet(0.0, 0.0), fleet(0.0, 0.0)).decision == "promote"
    assert decide(fleet(0.1, 0.1), fleet(0.0, 0.0)).decision == "reject"


def test_a_best_that_became_no_number_is_beaten():
    assert decide(fleet(1.0), fleet(math.nan)).decision == "promote"


# ---- who counts ----


def test_too_few_nodes_are_waited_for():
    verdict = decide(fleet(1.0, 1.0), fleet(1.0, 1.0), min_nodes=3)
    assert verdict.decision == "wait"
    assert verdict.reason == "expected at least 3 nodes. Received: 2"
    assert decide({}, BEST, min_nodes=0).decision == "wait"


def test_only_nodes_that_scored_both_versions_count():
    best = fleet(1.0, 1.0)
    assert decide({**best, "late": Quality(50.0)}, best, min_nodes=2).loss.nodes == 2
    assert decide({**best, "late": Quality(50.0)}, best, min_nodes=3).decision == "wait"


def test_the_first_version_of_a_lineage_is_its_base():
    verdict = decide(BEST, None, min_nodes=5)
    assert (verdict.decision, verdict.becomes_best) == ("promote", True)
    assert decide(BEST, None, min_nodes=6).decision == "wait"
    assert decide({}, None, min_nodes=0).decision == "promote"


# ---- AUROC ----


def test_a_smaller_loss_does_not_excuse_a_fallen_auroc():
    best = fleet(1.0, 1.0, 1.0, auroc=0.95)
    assert decide(fleet(0.5, 0.5, 0.5, auroc=0.90), best).decision == "reject"
    kept = decide(fleet(0.5, 0.5, 0.5, auroc=0.94), best)
    assert kept.decision == "promote"
    assert not kept.becomes_best  # a slowly falling AUROC is a small step, too
    assert decide(fleet(0.5, 0.5, 0.5, auroc=0.96), best).becomes_best


def test_nodes_without_labels_say_nothing_about_the_auroc():
    best = {"a": Quality(1.0, 0.9), "b": Quality(1.0), "c": Quality(1.0, 0.9)}
    candidate = {"a": Quality(1.0, 0.5), "b": Quality(1.0, 0.5), "c": Quality(1.0)}
    verdict = decide(candidate, best)
    assert verdict.auroc.nodes == 1
    assert verdict.decision == "reject"
    assert "AUROC -0.4000" in verdict.reason
    assert decide(fleet(1.0), fleet(1.0)).auroc is None
