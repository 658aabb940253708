"""Clean windows: an attack stays out, a new normal comes in, and the node says when it cannot tell."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.quarantine import Quarantine, QuarantineRules
from dl_mqtt_clients.errors import DataError

RULES = QuarantineRules(recent=100, cap=0.2, release_after_s=60.0)
batches = st.lists(st.tuples(st.lists(st.booleans(), max_size=30), st.floats(0, 30)), max_size=40)


def flags(above: int, below: int = 0) -> np.ndarray:
    return np.array([False] * below + [True] * above, np.bool_)


def after(*steps: tuple[int, int, float], rules: QuarantineRules = RULES) -> Quarantine:
    """(above, below, now) for each batch."""
    state = Quarantine(rules)
    for above, below, now_s in steps:
        state, _ = state.admit(flags(above, below), now_s=now_s)
    return state


def test_a_few_readings_far_above_stay_out_and_the_others_come_in():
    state, admitted = Quarantine(RULES).admit(np.array([False, True, False]), now_s=0.0)
    assert admitted.tolist() == [True, False, True]
    assert (state.phase, state.kept_out, state.may_train) == ("guarding", 1, True)
    assert state.share == 0.01


def test_above_the_cap_the_node_stops_and_waits():
    assert after((20, 80, 0.0)).phase == "guarding"
    state = after((20, 80, 0.0), (1, 0, 5.0))
    assert (state.phase, state.may_train, state.release_at_s) == ("drifted", False, 65.0)
    state, admitted = state.admit(flags(3), now_s=6.0)
    assert not admitted.any()
    assert state.release_at_s == 65.0  # more of the same does not put it off


def test_the_first_readings_alone_are_no_drift():
    """Ten of ten are above, but of a hundred that count they are ten."""
    assert after((10, 0, 0.0)).phase == "guarding"


def test_an_attack_that_ends_in_time_never_enters_the_window():
    state = after((50, 50, 0.0))
    assert state.phase == "drifted"
    inside = 0
    for now_s in range(1, 40):
        state, admitted = state.admit(flags(2 if now_s < 20 else 0, 5), now_s=float(now_s))
        inside += int(admitted.sum()) - 5
    assert inside == 0
    assert (state.phase, state.may_train) == ("guarding", True)


def test_a_new_normal_is_let_in_after_the_set_time_until_it_is_learnt():
    state = after((100, 0, 0.0))
    state, admitted = state.admit(flags(10), now_s=59.9)
    assert not admitted.any()
    state, admitted = state.admit(flags(10), now_s=60.0)
    assert admitted.all()
    assert (state.phase, state.may_train) == ("released", True)
    state, admitted = state.admit(flags(30, 70), now_s=100.0)  # half learnt
    assert admitted.all()
    state, admitted = state.admit(flags(5, 95), now_s=200.0)
    assert state.phase == "guarding"
    assert admitted.sum() == 95


def test_the_time_passes_without_readings_too():
    assert after((100, 0, 0.0)).at(59.0).phase == "drifted"
    assert after((100, 0, 0.0)).at(60.0).phase == "released"


def test_an_operator_lets_it_in_at_once():
    state = after((100, 0, 0.0)).released(now_s=1.0)
    state, admitted = state.admit(flags(7), now_s=2.0)
    assert admitted.all()
    assert state.phase == "released"


def test_letting_in_what_is_not_new_ends_at_once():
    state, admitted = Quarantine(RULES).released(now_s=0.0).admit(flags(1, 9), now_s=1.0)
    assert state.phase == "guarding"
    assert admitted.sum() == 9


def test_an_operator_can_say_that_it_is_an_attack():
    state = after((100, 0, 0.0)).guarded(now_s=50.0)
    assert (state.phase, state.release_at_s) == ("drifted", 110.0)
    released = after((100, 0, 0.0)).released(now_s=1.0).guarded(now_s=2.0)
    assert released.phase == "guarding"
    assert released.at(3.0).phase == "drifted"  # it still is above the cap


def test_without_a_set_time_only_an_operator_lets_it_in():
    rules = QuarantineRules(recent=100, cap=0.2, release_after_s=math.inf)
    state = after((100, 0, 0.0), rules=rules)
    assert state.at(1e12).phase == "drifted"
    assert state.released(now_s=1.0).phase == "released"


def test_with_no_time_at_all_a_new_normal_is_let_in_at_once():
    rules = QuarantineRules(recent=100, cap=0.2, release_after_s=0.0)
    assert after((30, 70, 0.0), rules=rules).phase == "released"


def test_a_share_that_trembles_about_the_cap_does_not_change_the_phase_each_time():
    state, phases = Quarantine(RULES), []
    for now_s, above in enumerate([21, 19, 21, 19, 21, 19]):
        state = state.rescored(flags(above, 100 - above)).at(float(now_s))
        phases.append(state.phase)
    assert phases == ["drifted"] * 6


def test_a_better_model_ends_drift_when_the_recent_readings_are_scored_again():
    state = after((100, 0, 0.0)).rescored(flags(3, 97)).at(1.0)
    assert state.phase == "guarding"


@given(batches)
def test_whatever_comes_one_of_two_things_holds(steps):
    """Unless released, nothing above the limit is admitted; what is not above always is."""
    state, now_s = Quarantine(RULES), 0.0
    for above, seconds in steps:
        now_s += seconds
        is_above = np.array(above, np.bool_)
        state, admitted = state.admit(is_above, now_s=now_s)
        assert admitted[~is_above].all()
        assert state.phase == "released" or not admitted[is_above].any()
        assert len(state.flags) <= RULES.recent
        assert state.phase != "guarding" or state.share <= RULES.cap
        assert state.phase == "guarding" or state.share > RULES.cap / 2
        assert state.phase != "drifted" or now_s < state.release_at_s


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.integers(1, 299))
def test_how_readings_are_cut_into_batches_does_not_change_the_share(above, cut):
    whole, _ = Quarantine(RULES).admit(np.array(above, np.bool_), now_s=0.0)
    first, _ = Quarantine(RULES).admit(np.array(above[:cut], np.bool_), now_s=0.0)
    second, _ = first.admit(np.array(above[cut:], np.bool_), now_s=0.0)
    assert second.share == whole.share


@pytest.mark.parametrize(
    "wrong", [{"recent": 0}, {"cap": 0.0}, {"cap": 1.0}, {"release_after_s": -1.0}, {"release_after_s": math.nan}]
)
def test_rules_out_of_range_are_refused(wrong):
    with pytest.raises(DataError, match="quarantine: expected recent ≥ 1"):
        QuarantineRules(**wrong)
