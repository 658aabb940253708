"""When a round opens: each reason alone, together, and never two rounds at once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.triggers import (
    Commanded,
    Drifted,
    Ended,
    Gone,
    Open,
    Received,
    Tick,
    TriggerRules,
    TriggerState,
    decide,
)
from dl_mqtt_clients.errors import ConfigurationError


def told(rules: TriggerRules, *events: tuple[float, object]) -> tuple[TriggerState, list[tuple[float, str]]]:
    """The state after all events, and when rounds were opened and why; the manager started at 0."""
    state, opened = TriggerState(rules, ended_s=0.0), []
    for now_s, event in events:
        state, decision = decide(state, event, now_s)
        if decision is not None:
            opened.append((now_s, decision.reason))
    return state, opened


def test_continuous_rounds_follow_one_another():
    _, opened = told(TriggerRules(continuous=True), (0, Tick()), (1, Tick()), (5, Ended()), (6, Tick()), (9, Ended()))
    assert opened == [(0, "continuous"), (5, "continuous"), (9, "continuous")]


def test_an_interval_is_counted_from_the_end_of_the_last_round():
    rules = TriggerRules(interval_s=60.0)
    state, opened = told(rules, (59, Tick()), (60, Tick()), (130, Tick()), (150, Ended()), (209, Tick()), (210, Tick()))
    assert opened == [(60, "interval"), (210, "interval")]
    assert state.wake_at_s is None
    assert decide(state, Ended(), 220)[0].wake_at_s == 280


def test_readings_count_fleet_wide_from_the_last_opening():
    events = (
        (0, Received("a", 500)),  # what was before it was first heard of does not count
        (0, Received("b", 0)),
        (1, Received("a", 560)),
        (2, Received("b", 39)),
        (3, Received("b", 40)),
        (4, Received("a", 650)),  # in mid-round
        (5, Received("b", 49)),
        (6, Ended()),
        (7, Received("b", 50)),
    )
    _, opened = told(TriggerRules(readings=100), *events)
    assert opened == [(3, "100 new readings"), (7, "100 new readings")]


def test_what_came_in_mid_round_opens_the_next_as_soon_as_it_has_ended():
    events = ((0, Received("a", 0)), (1, Received("a", 10)), (2, Received("a", 30)), (3, Ended()))
    assert told(TriggerRules(readings=10), *events)[1] == [(1, "10 new readings"), (3, "20 new readings")]


def test_a_node_that_starts_again_counts_from_nothing():
    events = ((0, Received("a", 0)), (1, Received("a", 90)), (2, Received("a", 9)), (3, Received("a", 10)))
    assert told(TriggerRules(readings=100), *events)[1] == [(3, "100 new readings")]


def test_drift_of_enough_nodes_opens_one_round_and_not_one_after_another():
    events = (
        (0, Drifted("a", is_drifted=True)),
        (1, Drifted("a", is_drifted=True)),
        (2, Drifted("b", is_drifted=True)),
        (3, Ended()),
        (4, Drifted("a", is_drifted=True)),  # the same drift, still there
        (5, Drifted("a", is_drifted=False)),
        (6, Drifted("a", is_drifted=True)),  # a new one
        (7, Drifted("c", is_drifted=True)),
    )
    _, opened = told(TriggerRules(drifted_nodes=2), *events)
    assert opened == [(2, "drift on a, b"), (7, "drift on a, c")]


def test_a_node_that_left_no_longer_asks():
    events = ((0, Drifted("a", is_drifted=True)), (1, Gone("a")), (2, Drifted("b", is_drifted=True)), (3, Gone("x")))
    assert told(TriggerRules(drifted_nodes=2), *events)[1] == []
    back = ((0, Received("a", 5)), (1, Gone("a")), (2, Received("a", 500)))
    assert told(TriggerRules(readings=100), *back)[1] == []


def test_many_drifting_nodes_are_named_shortly():
    events = [(0, Drifted(f"n{number}", is_drifted=True)) for number in range(8)]
    assert told(TriggerRules(drifted_nodes=8), *events)[1] == [(0, "drift on n0, n1, n2, n3, n4 and 3 more")]


def test_a_command_opens_a_round_at_once_or_after_the_present_one():
    rules = TriggerRules(pause_s=1000.0)
    state, opened = told(rules, (0, Tick()), (1, Commanded()), (2, Commanded()), (3, Commanded()), (4, Ended()))
    assert opened == [(1, "command"), (4, "command")]
    assert decide(state, Ended(), 5)[1] is None


def test_reasons_add_up_and_the_first_opens():
    rules = TriggerRules(interval_s=60.0, readings=10)
    assert told(rules, (0, Received("a", 0)), (5, Received("a", 10)))[1] == [(5, "10 new readings")]
    assert told(rules, (0, Received("a", 0)), (60, Received("a", 9)))[1] == [(60, "interval")]


def test_a_pause_holds_back_every_reason_but_a_command():
    rules = TriggerRules(continuous=True, readings=1, drifted_nodes=1, pause_s=10.0)
    early = ((0, Received("a", 0)), (1, Received("a", 5)), (2, Drifted("a", is_drifted=True)), (9.9, Tick()))
    state, opened = told(rules, *early)
    assert opened == []
    assert state.wake_at_s == 10
    assert told(rules, *early, (10, Tick()))[1] == [(10, "5 new readings")]
    assert told(rules, *early, (3, Commanded()))[1] == [(3, "command")]


def test_without_a_reason_nothing_opens_and_nobody_need_wake():
    state, opened = told(TriggerRules(), (1e9, Tick()), (1e9, Received("a", 10**12)))
    assert opened == []
    assert state.wake_at_s is None


events = st.one_of(
    st.builds(Received, st.sampled_from("abc"), st.integers(0, 100)),
    st.builds(Drifted, st.sampled_from("abc"), is_drifted=st.booleans()),
    st.builds(Gone, st.sampled_from("abc")),
    st.sampled_from([Commanded(), Ended(), Tick()]),
)
rules = st.builds(
    TriggerRules,
    continuous=st.booleans(),
    interval_s=st.none() | st.floats(0.1, 20),
    readings=st.none() | st.integers(1, 50),
    drifted_nodes=st.none() | st.integers(1, 3),
    pause_s=st.floats(0, 10),
)


@given(rules, st.lists(st.tuples(st.floats(0, 5), events), max_size=40))
def test_there_is_never_more_than_one_round_and_a_due_one_is_never_missed(rules, steps):
    state, now_s, running = TriggerState(rules, ended_s=0.0), 0.0, False
    for seconds, event in steps:
        now_s += seconds
        state, decision = decide(state, event, now_s)
        running = running and not isinstance(event, Ended)
        if decision is not None:
            assert not running
            assert isinstance(decision, Open)
            assert decision.reason
            running = True
        assert state.is_running == running
        assert running or state.wake_at_s is None or state.wake_at_s > now_s


@pytest.mark.parametrize(
    "wrong",
    [{"interval_s": 0.0}, {"interval_s": math.nan}, {"readings": 0}, {"drifted_nodes": -1}, {"pause_s": -1.0},
     {"pause_s": math.inf}],
)  # fmt: skip
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="rounds: expected"):
        TriggerRules(**wrong)
