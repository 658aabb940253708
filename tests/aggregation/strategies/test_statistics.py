"""BatchNormalization's statistics: pooled over the nodes, whatever the strategy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.strategies import (
    ClipNorm,
    FedAdam,
    FedAvg,
    Krum,
    Mean,
    Median,
    PolynomialStaleness,
    Strategy,
    UniformMean,
    Update,
)
from dl_mqtt_clients.aggregation.strategies.layout import Layout
from dl_mqtt_clients.errors import RefusedError
from strategy_helpers import aggregator, merge, variable

KERNEL = variable((2,), "dense/kernel")
MEAN = variable((3,), "bn/moving_mean", "statistic")
VARIANCE = variable((3,), "bn/moving_variance", "statistic")
VARIABLES = [KERNEL, MEAN, VARIANCE]

batches = st.lists(
    st.tuples(st.floats(-5, 5), st.floats(0.05, 3), st.integers(2, 60)), min_size=1, max_size=5
)  # location, deviation, examples a node


def node_update(name, batch, base):
    """What a node sends whose BatchNormalization saw exactly this batch (momentum 0), in float32."""
    kernel = np.float32([0.5, 0.5])
    mean, variance = batch.mean(axis=0), batch.var(axis=0)
    return Update(
        node=name,
        arrays=[kernel, np.float32(mean - base[1]), np.float32(variance - base[2])],
        examples=len(batch),
    )


STRATEGIES = [
    Strategy(),
    FedAdam() @ UniformMean(),
    FedAvg() @ Median() @ ClipNorm(1e-3),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
@given(parts=batches, seed=st.integers(0, 2**32 - 1))
def test_the_merged_variance_is_that_of_all_batches_put_together(strategy, parts, seed):
    rng = np.random.default_rng(seed)
    base = [np.zeros(2), rng.normal(0, 2, 3).astype(np.float32), rng.uniform(0, 4, 3).astype(np.float32)]
    data = [rng.normal(location, deviation, (n, 3)) for location, deviation, n in parts]
    updates = [node_update(f"node-{k}", batch, base) for k, batch in enumerate(data)]
    _, mean, variance = merge(strategy, updates, variables=VARIABLES, base=base).change
    pooled = np.concatenate(data)
    assert np.allclose(base[1] + mean, pooled.mean(axis=0), atol=1e-4)
    assert np.allclose(base[2] + variance, pooled.var(axis=0), atol=1e-4)


@given(
    st.lists(st.lists(st.floats(-100, 100, width=32), min_size=6, max_size=6), min_size=1, max_size=5),
    st.lists(st.floats(0, 100, width=32), min_size=3, max_size=3),
)
def test_a_variance_is_never_negative_whatever_is_sent(changes, variances):
    base = [np.zeros(2, np.float32), np.zeros(3, np.float32), np.float32(variances)]
    updates = [
        Update(node=str(k), arrays=[np.float32([0, 0]), np.float32(c[:3]), np.float32(c[3:])], examples=k + 1)
        for k, c in enumerate(changes)
    ]
    merged = merge(FedAdam() @ Mean(), updates, variables=VARIABLES, base=base)
    assert ((base[2].astype(np.float64) + merged.change[2]).astype(np.float32) >= 0).all()
    assert not [name for name in merged.state if "0001" in name or "0002" in name]  # no server step on statistics


def test_nothing_new_changes_nothing_bit_by_bit():
    base = [np.zeros(2, np.float32), np.float32([1, 2, 3]), np.float32([0.1, 7.3, 1e-9])]
    updates = [Update(node=str(k), arrays=[np.zeros(s, np.float32) for s in (2, 3, 3)], examples=3) for k in range(3)]
    merged = merge(Strategy(), updates, variables=VARIABLES, base=base)
    assert all(not change.any() for change in merged.change)


def test_other_statistics_and_means_are_averaged_by_examples_under_a_uniform_mean_too():
    variables = [KERNEL, variable((1,), "counter/total", "statistic")]
    updates = [
        Update(node=str(k), arrays=[np.float32([k, k]), np.float32([value])], examples=n)
        for k, (value, n) in enumerate([(10.0, 1), (50.0, 3)])
    ]
    kernel, total = merge(UniformMean(), updates, variables=variables).change
    assert kernel.tolist() == [0.5, 0.5]
    assert total.tolist() == [40.0]


def test_a_variance_without_its_mean_is_averaged_and_kept_above_0():
    variables = [KERNEL, variable((1,), "alone/moving_variance", "statistic")]
    base = [np.zeros(2), np.float32([1.0])]
    updates = [
        Update(node=str(k), arrays=[np.float32([0, 0]), np.float32([v])], examples=1) for k, v in enumerate((-9, 1))
    ]
    assert merge(Strategy(), updates, variables=variables, base=base).change[1].tolist() == [0.0]  # (0 + 2) / 2 - 1


def test_stale_statistics_are_damped_before_they_are_pooled():
    base = [np.zeros(2), np.zeros(3), np.ones(3)]
    update = Update(node="a", arrays=[np.zeros(2), np.full(3, 8.0), np.full(3, 2.0)], examples=5, staleness=3)
    _, mean, variance = merge(Mean() @ PolynomialStaleness(), [update], variables=VARIABLES, base=base).change
    assert mean == pytest.approx([4.0] * 3)
    assert variance == pytest.approx([1.0] * 3)


def test_scalers_do_not_travel_and_the_change_follows_the_positions_that_do():
    variables = [variable((1,), "scaling/mean", "scaler"), MEAN, KERNEL, VARIANCE]
    layout = Layout.of(variables)
    assert (layout.positions, layout.trainables, layout.statistics) == ((1, 2, 3), (1,), (0, 2))
    assert layout.variances == {2: 0}
    base = [np.zeros(v.shape, np.float32) for v in variables]
    update = Update(node="a", arrays=[np.float32([1, 2, 3]), np.float32([4, 5]), np.float32([0, 0, 0])], examples=2)
    merged = merge(FedAvg() @ Mean(), [update], variables=variables, base=base)
    assert [c.tolist() for c in merged.change] == [[1, 2, 3], [4, 5], [0, 0, 0]]


def test_pairs_are_found_by_layer_and_of_colliding_paths_in_order():
    variables = [
        variable((3,), "a/bn/moving_mean", "statistic"),
        variable((3,), "b/bn/moving_mean", "statistic"),
        variable((3,), "b/bn/moving_variance", "statistic"),
        variable((3,), "a/bn/moving_variance", "statistic"),
        variable((3,), "a/bn/moving_mean", "statistic"),
        variable((3,), "a/bn/moving_variance", "statistic"),
        variable((2,), "b/bn/moving_variance", "statistic"),  # of another shape: not its pair
        variable((3,), "moving_variance", "trainable"),  # only its name
        variable((3,), "a/not_moving_variance", "statistic"),
    ]
    assert Layout.of(variables).variances == {2: 1, 3: 0, 5: 4, 6: None}


def test_an_update_whose_statistics_are_too_large_is_refused_and_nothing_is_added():
    running = aggregator(Krum(0), VARIABLES)
    with pytest.raises(RefusedError, match="too large"):
        running.add(Update(node="a", arrays=[np.zeros(2), np.full(3, 1e30), np.zeros(3)], examples=1))
    with pytest.raises(RefusedError, match="Received: 0"):
        running.result([])
