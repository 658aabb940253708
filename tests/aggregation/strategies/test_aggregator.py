"""A round's merge: the same bits whoever came first and whatever crashed; nothing counted twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.fixed_point import RunningSum
from dl_mqtt_clients.aggregation.strategies import (
    AdaptiveClip,
    Bulyan,
    ClipNorm,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedNova,
    FedYogi,
    HingeStaleness,
    Krum,
    Mean,
    Median,
    MedianClip,
    MultiKrum,
    PolynomialStaleness,
    Strategy,
    TrimmedMean,
    UniformMean,
    Update,
)
from dl_mqtt_clients.errors import RefusedError
from strategy_helpers import SIZE, aggregator, bits, flat, merge, updates_of, variable

EVERY = [
    Strategy(),
    FedAvgM() @ UniformMean() @ ClipNorm(5.0),
    FedAdam() @ FedNova() @ AdaptiveClip() @ PolynomialStaleness(),
    FedYogi() @ Mean() @ HingeStaleness(b=1),
    FedAvg() @ Mean() @ MedianClip(1.0),
    FedAdam() @ FedNova() @ MedianClip(0.5) @ ClipNorm(8.0) @ PolynomialStaleness(),
    FedAdagrad() @ Median() @ ClipNorm(5.0),
    FedAvg() @ Median() @ MedianClip(1.0),
    FedAdam() @ TrimmedMean(0.2) @ AdaptiveClip(3.0),
    FedAvg() @ Krum(1),
    FedAvg() @ MultiKrum(f=1, m=3) @ PolynomialStaleness(),
    FedAdam() @ Bulyan(1) @ ClipNorm(5.0),
]
VARIABLES = [
    variable((2, 3)),
    variable((2,), "bn/moving_mean", "statistic"),
    variable((), "gain"),
    variable((2,), "bn/moving_variance", "statistic"),
]
SHAPES = tuple(v.shape for v in VARIABLES)
BASE = [np.ones(shape, np.float32) for shape in SHAPES]


def some_updates(seed, n=8):
    rng = np.random.default_rng(seed)
    return updates_of(
        rng.normal(0, 3, (n, SIZE)),
        examples=rng.integers(1, 1000, n).tolist(),
        steps=rng.integers(1, 50, n).tolist(),
        staleness=rng.integers(0, 5, n).tolist(),
        shapes=SHAPES,
    )


def merged(strategy, updates, state=None):
    return merge(strategy, updates, variables=VARIABLES, base=BASE, state=state)


@pytest.mark.parametrize("strategy", EVERY, ids=str)
@given(seed=st.integers(0, 1000), data=st.data())
def test_any_order_gives_the_same_bits(strategy, seed, data):
    updates = some_updates(seed)
    state = merged(strategy, some_updates(seed + 1)).state
    shuffled = data.draw(st.permutations(updates))
    assert bits(merged(strategy, shuffled, state)) == bits(merged(strategy, updates, state))


@pytest.mark.parametrize("strategy", EVERY, ids=str)
def test_one_built_again_after_a_crash_gives_the_same_bits(strategy, tmp_path):
    """Updates come back from the spool as read-only maps at odd places of a file."""
    updates, state = some_updates(5), merged(strategy, some_updates(6)).state
    undisturbed = merged(strategy, updates, state)
    spooled = [on_disk(update, tmp_path) for update in reversed(updates)]
    again = aggregator(strategy, VARIABLES, base=BASE, state={name: a.copy() for name, a in state.items()})
    for update in spooled[:3]:
        again.add(update)
    for update in reversed(spooled[3:]):
        again.add(again.check(update))
    assert bits(again.result(iter(spooled))) == bits(undisturbed)


def on_disk(update, folder):
    arrays = []
    for k, array in enumerate(update.arrays):
        path = folder / f"{update.node}-{k}"
        path.write_bytes(b"x" * 4 + array.tobytes())
        arrays.append(np.memmap(path, np.float32, "r", offset=4, shape=array.shape or (1,)).reshape(array.shape))
    return Update(
        node=update.node, arrays=arrays, examples=update.examples, staleness=update.staleness, steps=update.steps
    )


@pytest.mark.parametrize("strategy", EVERY, ids=str)
def test_a_result_can_be_asked_for_again(strategy):
    updates = some_updates(2)
    running = aggregator(strategy, VARIABLES, base=BASE)
    for update in updates:
        running.add(update)
    assert bits(running.result(updates)) == bits(running.result(updates))


@pytest.mark.parametrize("strategy", EVERY, ids=str)
def test_a_node_is_counted_once(strategy):
    updates = some_updates(3)
    running = aggregator(strategy, VARIABLES, base=BASE)
    checked = running.check(updates[0])
    for update in updates:
        running.add(update)
    for again in (updates[0], checked):
        with pytest.raises(RefusedError, match="node-00 is counted already"):
            running.add(again)
    assert bits(running.result(updates)) == bits(merged(strategy, updates))


WRONG = {
    "another shape": lambda arrays: [arrays[0].T, *arrays[1:]],
    "too few arrays": lambda arrays: arrays[:-1],
    "a statistic of another shape": lambda arrays: [arrays[0], np.float32([1]), *arrays[2:]],
    "not a number": lambda arrays: [np.full_like(arrays[0], np.nan), *arrays[1:]],
    "infinite": lambda arrays: [np.full_like(arrays[0], -np.inf), *arrays[1:]],
    "a statistic that is none": lambda arrays: [arrays[0], np.float32([np.nan, 0]), *arrays[2:]],
}


@pytest.mark.parametrize("strategy", EVERY, ids=str)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_update_is_refused_and_changes_nothing(strategy, wrong):
    updates = some_updates(4)
    running = aggregator(strategy, VARIABLES, base=BASE)
    bad = Update(node="bad", arrays=WRONG[wrong](updates[0].arrays), examples=5)
    for update in updates:
        with pytest.raises(RefusedError):
            running.add(bad)
        running.add(update)
    assert bits(running.result(updates)) == bits(merged(strategy, updates))


def test_checking_counts_nothing():
    running = aggregator(Strategy(), VARIABLES, base=BASE)
    running.check(some_updates(1)[0])
    with pytest.raises(RefusedError, match=r"expected at least 1 updates. Received: 0"):
        running.result()


@pytest.mark.parametrize("missing", ["one", "another", "all"])
def test_a_robust_reduction_must_be_given_exactly_what_was_added(missing):
    updates = some_updates(1)
    running = aggregator(Median(), VARIABLES, base=BASE)
    for update in updates[:5]:
        running.add(update)
    given_back = {"one": updates[:4], "another": updates[:6], "all": []}[missing]
    with pytest.raises(ValueError, match="expected those of 5 added nodes"):
        running.result(given_back)


def test_a_rule_that_answers_with_other_shapes_is_an_error():
    class Short:
        def reduce(self, stack):
            return stack.mean()[:-1]

    with pytest.raises(ValueError, match=r"Short.*expected arrays of the trainables' shapes"):
        merged(Short(), some_updates(1))


def test_a_rule_that_answers_with_an_update_itself_does_not_have_it_overwritten():
    class First:
        def reduce(self, stack):
            return list(stack.rows[0])

    updates = some_updates(1)
    before = flat(updates[0].arrays).tobytes()
    assert merged(FedAvg(lr=0.5) @ First() @ ClipNorm(100.0), updates).change[0] == pytest.approx(
        0.5 * updates[0].arrays[0]
    )
    assert flat(updates[0].arrays).tobytes() == before


def test_a_linear_merge_is_that_of_the_running_sum():
    """The manager's sum before there were strategies: examples · change in fixed point, divided once."""
    updates = updates_of(np.random.default_rng(0).normal(0, 1, (5, SIZE)), examples=[3, 1, 4, 1, 5])
    running = RunningSum([a.shape for a in updates[0].arrays], bits=40)
    for update in updates:
        running.add(update.arrays, weight=update.examples)
    assert np.allclose(flat(running.mean()), flat(merge(Strategy(), updates).change), atol=1e-9)


def test_a_linear_aggregator_keeps_no_update():
    import gc
    import weakref

    running = aggregator(Strategy() @ ClipNorm(), VARIABLES, base=BASE)
    updates = some_updates(9)
    watched = [weakref.ref(array) for update in updates for array in update.arrays]
    for update in updates:
        running.add(update)
    del update, updates
    gc.collect()
    assert [ref for ref in watched if ref() is not None] == []
    assert len(running.result().change) == 4


WEIGHTS = [variable((1,)), variable((1,))]
MOMENTS = [variable((1,), f"layer/{name}", "statistic") for name in ("moving_mean", "moving_variance")]


@pytest.mark.parametrize("variables", [WEIGHTS, MOMENTS])
def test_what_was_checked_together_can_be_added_together(variables):
    """An update that is stored must not be refused when its turn to be added comes."""
    merge_ = aggregator(Strategy(), variables)
    largest = [np.full(1, 100.0, np.float32)] * 2
    checked, refusals = [], []
    for number in range(300):
        try:
            update = Update(node=f"node-{number:05d}", arrays=largest, examples=10_000)
            checked.append(merge_.check(update, before=checked))
        except RefusedError as error:
            refusals.append(str(error))
    assert set(refusals) == {"update too large for the running sum"}
    assert len(checked) >= 100  # as many as were promised
    for update in checked:
        merge_.add(update)
    assert flat(merge_.result().change).tolist() == [100.0, 100.0]
