"""The round engine's stories, one a test. Its laws under any order of events are in test_rounds_laws.py."""

import pytest

from dl_mqtt_clients.aggregation.rounds import (
    MAX_REFUSED,
    Abandon,
    Accepted,
    Close,
    Expect,
    Forget,
    Grant,
    Receipt,
    Refuse,
    Verify,
    Wait,
)
from round_helpers import new_round, offer, plan, sha


def upload(engine, node, *, chunks=3, now=0.0):
    """Offer and send everything that is granted, until the engine wants to verify."""
    todo = engine.offer(node, offer(node, chunks=chunks), now=now)
    while Verify(node) not in todo:
        granted = [k for d in todo if isinstance(d, Grant) and d.node == node for k in d.chunks]
        todo = [d for k in granted for d in engine.chunk(node, sha(node), k, now=now)]
        if not granted:
            return todo
    return todo


def accept(engine, node, *, now=0.0):
    upload(engine, node, now=now)
    return engine.stored(node, now=now)


def refusal(decisions) -> str:
    (decision,) = decisions
    assert isinstance(decision, Refuse)
    return decision.reason


# ---- one node ----


def test_an_update_is_offered_granted_sent_verified_stored_and_receipted():
    engine = new_round()
    an_offer = offer("a")
    assert engine.offer("a", an_offer, now=0) == [Expect("a", an_offer), Grant("a", sha("a"), (0, 1, 2))]
    assert engine.in_flight == 3
    assert engine.chunk("a", sha("a"), 1, now=1) == []
    assert engine.chunk("a", sha("a"), 0, now=1) == []
    assert engine.chunk("a", sha("a"), 2, now=1) == [Verify("a")]
    assert engine.in_flight == 0
    assert not engine.accepted
    assert engine.stored("a", now=1) == [Receipt("a", sha("a"))]
    assert engine.accepted == {"a": Accepted("a", sha("a"), 10, 0.5)}


def test_a_small_update_comes_with_its_offer_in_one_trip():
    engine = new_round(plan_=plan(inline_bytes=300))
    an_offer = offer("a", inline=True)
    assert engine.offer("a", an_offer, now=0) == [Expect("a", an_offer)]
    assert [engine.chunk("a", sha("a"), k, now=0) for k in range(3)] == [[], [], [Verify("a")]]


def test_an_inline_update_whose_chunks_were_lost_is_granted_when_it_is_offered_again():
    engine = new_round(plan_=plan(inline_bytes=300))
    engine.offer("a", offer("a", inline=True), now=0)
    engine.chunk("a", sha("a"), 1, now=0)
    assert engine.offer("a", offer("a", inline=True), now=1) == [Grant("a", sha("a"), (0, 2))]


def test_inline_is_not_the_nodes_choice():
    engine = new_round(plan_=plan(inline_bytes=299))
    assert engine.offer("a", offer("a", inline=True), now=0)[1:] == [Grant("a", sha("a"), (0, 1, 2))]


def test_a_large_update_is_granted_in_windows():
    engine = new_round(limit=8)
    granted = list(engine.offer("a", offer("a", chunks=20), now=0)[1].chunks)
    assert granted == list(range(8))
    for k in range(20):
        for decision in engine.chunk("a", sha("a"), k, now=0):
            granted += decision.chunks if isinstance(decision, Grant) else []
        assert engine.in_flight <= 8
    assert granted == list(range(20))


def test_an_offer_repeated_is_granted_again_what_is_still_missing():
    engine = new_round()
    engine.offer("a", offer("a"), now=0)
    engine.chunk("a", sha("a"), 1, now=0)
    assert engine.offer("a", offer("a"), now=1) == [Grant("a", sha("a"), (0, 2))]
    assert engine.in_flight == 2


def test_another_update_of_the_same_node_replaces_the_one_under_way():
    engine = new_round()
    engine.offer("a", offer("a"), now=0)
    other = offer("a", sha256=sha("other"))
    assert engine.offer("a", other, now=0) == [Forget("a"), Expect("a", other), Grant("a", sha("other"), (0, 1, 2))]
    assert engine.chunk("a", sha("a"), 0, now=0) == []
    assert engine.in_flight == 3


def test_a_repeated_offer_of_an_accepted_update_gets_the_same_receipt_even_after_the_end():
    engine = new_round(plan_=plan(target_updates=1, min_updates=1))
    accept(engine, "a")
    assert engine.closed
    for _ in range(3):
        assert engine.offer("a", offer("a"), now=1) == [Receipt("a", sha("a"))]
    assert len(engine.accepted) == 1


def test_an_old_offer_of_the_same_bytes_does_not_tell_an_accepted_node_that_it_was_refused():
    engine = new_round()
    accept(engine, "a")
    assert engine.offer("a", offer("a", attempt=1), now=1) == [Receipt("a", sha("a"))]


def test_chunks_that_nobody_waits_for_change_nothing():
    engine = new_round()
    assert engine.chunk("a", sha("a"), 0, now=0) == []
    engine.offer("a", offer("a"), now=0)
    assert engine.chunk("a", sha("b"), 0, now=0) == []
    assert engine.chunk("b", sha("a"), 0, now=0) == []
    assert engine.chunk("a", sha("a"), 3, now=0) == []
    engine.chunk("a", sha("a"), 0, now=0)
    assert engine.chunk("a", sha("a"), 0, now=0) == []
    assert engine.in_flight == 2


def test_a_whole_update_is_verified_once():
    engine = new_round()
    assert upload(engine, "a") == [Verify("a")]
    assert engine.chunk("a", sha("a"), 2, now=0) == []
    assert engine.stored("a", now=0) == [Receipt("a", sha("a"))]
    assert engine.stored("a", now=0) == []
    assert engine.rejected("a", "late") == []


def test_updates_stored_together_all_count_before_the_round_ends():
    engine = new_round(plan_=plan(target_updates=5, min_updates=1), deadline=10.0)
    for node in ("a", "b", "c"):
        assert upload(engine, node)[-1] == Verify(node)
    decisions = engine.stored("a", "b", "c", now=11.0)
    assert decisions == [*(Receipt(node, sha(node)) for node in "abc"), Close()]
    assert list(engine.accepted) == ["a", "b", "c"]


def test_an_update_that_proves_wrong_half_way_gives_its_place_to_others():
    engine = new_round(limit=3)
    engine.offer("a", offer("a"), now=0)
    assert engine.offer("b", offer("b"), now=0)[-1] == Wait("b", sha("b"))
    engine.chunk("a", sha("a"), 0, now=0)
    decisions = engine.rejected("a", "wrong")
    assert decisions[-1] == Grant("b", sha("b"), (0, 1, 2))
    assert engine.in_flight == 3


def test_who_offers_a_whole_update_again_is_not_in_the_way_of_others():
    engine = new_round(limit=3)
    assert upload(engine, "a") == [Verify("a")]
    assert engine.offer("a", offer("a"), now=0) == [Wait("a", sha("a"))]
    assert engine.offer("b", offer("b"), now=0)[-1] == Grant("b", sha("b"), (0, 1, 2))
    assert engine.stored("a", now=0) == [Receipt("a", sha("a"))]


# ---- refusals ----


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"round": 4}, "another round: expected 5.2, received 4.2"),
        ({"round": 6}, "another round: expected 5.2, received 6.2"),
        ({"attempt": 1}, "another round: expected 5.2, received 5.1"),
        ({"base": "c" * 64}, "built on another version than the announced one"),
        ({"bytes": 49}, "wrong size: expected 50 to 5000 bytes, received 49"),
        ({"bytes": 5001}, "wrong size: expected 50 to 5000 bytes, received 5001"),
        ({"bytes": 2**53}, "wrong size: expected 50 to 5000 bytes, received 9007199254740992"),
    ],
)
def test_an_offer_that_would_not_be_counted_is_refused_before_a_byte_is_sent(changes, reason):
    engine = new_round()
    assert engine.offer("a", offer("a", **changes), now=0) == [Refuse("a", offer("a", **changes).sha256, reason)]
    assert engine.refused == {"a": reason}
    assert engine.in_flight == 0


def test_an_unknown_node_is_refused():
    engine = new_round(is_known=lambda node: node != "stranger")
    assert refusal(engine.offer("stranger", offer("stranger"), now=0)) == "unknown node"


def test_who_is_not_drawn_is_refused_and_who_is_drawn_is_not():
    engine = new_round(plan_=plan(fraction=0.5))
    for node in (f"n{k}" for k in range(40)):
        decision = engine.offer(node, offer(node), now=0)[0]
        if engine.is_drawn(node):
            assert isinstance(decision, Expect)
        else:
            assert decision == Refuse(node, sha(node), "not in this round's cohort")


def test_a_second_update_of_an_accepted_node_is_refused_and_the_first_counts():
    engine = new_round()
    accept(engine, "a")
    reason = refusal(engine.offer("a", offer("a", sha256=sha("better")), now=0))
    assert reason == "another update of this node was accepted in this round"
    assert engine.accepted["a"].sha256 == sha("a")
    assert engine.refused == {}


def test_a_wrong_update_is_forgotten_refused_and_can_be_made_good():
    engine = new_round()
    upload(engine, "a")
    assert engine.rejected("a", "holds NaN") == [Forget("a"), Refuse("a", sha("a"), "holds NaN")]
    assert engine.refused == {"a": "holds NaN"}
    assert not engine.accepted
    accept(engine, "a")
    assert engine.refused == {}
    assert set(engine.accepted) == {"a"}


def test_a_stale_offer_does_not_disturb_the_upload_under_way():
    engine = new_round(limit=3)
    engine.offer("a", offer("a"), now=0)
    engine.offer("b", offer("b"), now=0)  # waits
    engine.offer("b", offer("b", round=4), now=0)  # an old one, late from the network
    decisions = [d for k in range(3) for d in engine.chunk("a", sha("a"), k, now=0)]
    assert Grant("b", sha("b"), (0, 1)) in decisions


def test_strangers_cannot_fill_the_memory_with_refusals():
    engine = new_round(is_known=lambda _node: False)
    for k in range(MAX_REFUSED + 50):
        assert engine.offer(f"n{k}", offer(f"n{k}"), now=0)
    assert len(engine.refused) == MAX_REFUSED


def test_the_examples_of_a_node_are_capped():
    engine = new_round()
    engine.offer("a", offer("a", examples=10**9), now=0)
    for k in range(3):
        engine.chunk("a", sha("a"), k, now=0)
    engine.stored("a", now=0)
    assert engine.accepted["a"].examples == 1000


# ---- many nodes ----


def test_who_finds_no_room_waits_and_is_served_when_there_is_some():
    engine = new_round(limit=3)
    engine.offer("a", offer("a"), now=0)
    assert engine.offer("b", offer("b"), now=0)[-1] == Wait("b", sha("b"))
    assert engine.offer("b", offer("b"), now=1) == [Wait("b", sha("b"))]
    served = [d for k in range(3) for d in engine.chunk("a", sha("a"), k, now=2)]
    assert served[-1] == Verify("a")
    assert served[:-1] == [Grant("b", sha("b"), (0, 1))]
    assert engine.chunk("b", sha("b"), 0, now=2) == [Grant("b", sha("b"), (2,))]


def test_the_waiting_are_served_in_order():
    engine = new_round(limit=1)
    for node in "abc":
        engine.offer(node, offer(node, chunks=1), now=0)
    assert engine.chunk("a", sha("a"), 0, now=0) == [Grant("b", sha("b"), (0,)), Verify("a")]
    assert engine.chunk("b", sha("b"), 0, now=0) == [Grant("c", sha("c"), (0,)), Verify("b")]


def test_a_thousand_nodes_finishing_together_keep_the_limit():
    engine = new_round(limit=64, plan_=plan(target_updates=1000))
    todo = [d for k in range(1000) for d in engine.offer(f"n{k}", offer(f"n{k}", chunks=2), now=0)]
    assert engine.in_flight == 64
    while todo:
        decision = todo.pop(0)
        if isinstance(decision, Grant):
            for k in decision.chunks:
                todo += engine.chunk(decision.node, decision.sha256, k, now=0)
                assert engine.in_flight <= 64
        if isinstance(decision, Verify):
            todo += engine.stored(decision.node, now=0)
    assert len(engine.accepted) == 1000
    assert engine.closed


def test_a_stalled_upload_frees_its_slots_for_others():
    engine = new_round(limit=3, stall_s=5)
    engine.offer("dead", offer("dead"), now=0)
    engine.offer("b", offer("b"), now=1)
    assert engine.next_tick(now=1) == 4
    assert engine.tick(now=4.9) == []
    assert engine.tick(now=5) == [Grant("b", sha("b"), (0, 1, 2))]
    assert engine.in_flight == 3


def test_what_came_of_a_stalled_upload_is_kept_for_when_it_offers_again():
    engine = new_round(stall_s=5)
    engine.offer("a", offer("a"), now=0)
    engine.chunk("a", sha("a"), 0, now=0)
    engine.tick(now=6)
    assert engine.in_flight == 0
    assert engine.offer("a", offer("a"), now=7) == [Grant("a", sha("a"), (1, 2))]


def test_who_waited_long_has_the_full_time_to_send_once_it_is_granted():
    engine = new_round(limit=3, stall_s=5)
    engine.offer("a", offer("a"), now=0)
    engine.offer("b", offer("b"), now=0)
    for k in range(3):
        engine.chunk("a", sha("a"), k, now=4.5)
    held = engine.in_flight
    assert held > 0
    assert engine.next_tick(now=4.5) == 5
    engine.tick(now=9)
    assert engine.in_flight == held


def test_a_late_chunk_after_a_stall_is_still_worth_something():
    engine = new_round(limit=3, stall_s=5)
    engine.offer("a", offer("a"), now=0)
    engine.offer("b", offer("b"), now=4)
    engine.tick(now=6)  # a's slots go to b
    assert engine.chunk("a", sha("a"), 0, now=7) == []
    done = [d for k in range(3) for d in engine.chunk("b", sha("b"), k, now=7)]
    assert {d.node for d in done if isinstance(d, Grant)} == {"a"}  # it need not offer again


# ---- the end ----


def test_the_target_closes_the_round_and_the_late_are_told():
    engine = new_round(plan_=plan(target_updates=2))
    engine.offer("late", offer("late"), now=0)
    accept(engine, "a")
    assert accept(engine, "b") == [
        Receipt("b", sha("b")),
        Refuse("late", sha("late"), "the round is closed"),
        Forget("late"),
        Close(),
    ]
    assert refusal(engine.offer("later", offer("later"), now=1)) == "the round is closed"
    assert engine.chunk("late", sha("late"), 0, now=1) == []
    assert engine.tick(now=1000) == []
    assert engine.in_flight == 0


def test_an_update_that_ends_the_round_is_verified_after_the_waiting_were_served():
    """Otherwise their grants would be sent after, and for, the next round."""
    engine = new_round(limit=1, plan_=plan(target_updates=1, min_updates=1))
    engine.offer("a", offer("a", chunks=1), now=0)
    engine.offer("b", offer("b", chunks=1), now=0)
    assert engine.chunk("a", sha("a"), 0, now=0)[-1] == Verify("a")


def test_the_deadline_closes_the_round_with_a_quorum():
    engine = new_round(deadline=100)
    accept(engine, "a")
    accept(engine, "b")
    assert engine.next_tick(now=40) == 60
    assert engine.tick(now=99.9) == []
    assert engine.tick(now=100) == [Close()]
    assert engine.closed


def test_the_deadline_abandons_the_round_without_a_quorum():
    engine = new_round(deadline=100)
    accept(engine, "a")
    engine.offer("b", offer("b"), now=99)
    assert engine.tick(now=100) == [Refuse("b", sha("b"), "the round is closed"), Forget("b"), Abandon()]
    assert engine.closed


def test_a_round_nobody_came_to_is_abandoned_even_without_a_quorum_to_reach():
    engine = new_round(plan_=plan(min_updates=0, target_updates=0))
    assert engine.tick(now=50) == []
    assert engine.tick(now=100) == [Abandon()]


def test_an_update_verified_at_the_deadline_is_in():
    engine = new_round(deadline=100)
    accept(engine, "a")
    upload(engine, "b", now=99)
    assert engine.stored("b", now=101) == [Receipt("b", sha("b")), Close()]


def test_without_a_target_all_nodes_that_live_close_the_round():
    living = {"a", "b", "c"}
    engine = new_round(plan_=plan(target_updates=0), expected_nodes=lambda: len(living))
    accept(engine, "a")
    accept(engine, "b")
    assert engine.tick(now=1) == []
    living.discard("c")
    assert engine.tick(now=2) == [Close()]


def test_a_target_below_the_quorum_waits_for_the_quorum():
    engine = new_round(plan_=plan(target_updates=1, min_updates=2))
    accept(engine, "a")
    assert not engine.closed
    accept(engine, "b")
    assert engine.closed


def test_a_round_begun_again_after_a_crash_knows_what_was_accepted():
    held = [Accepted("a", sha("a"), 10, 0.5), Accepted("b", sha("b"), 10, None)]
    engine = new_round(accepted=held)
    assert engine.offer("a", offer("a"), now=0) == [Receipt("a", sha("a"))]
    assert accept(engine, "c")[-1] == Close()


def test_a_round_whose_target_was_reached_before_the_crash_closes_at_once():
    engine = new_round(accepted=[Accepted(n, sha(n), 10, None) for n in "abc"])
    assert engine.tick(now=0) == [Close()]


def test_time_to_the_next_tick_is_never_negative():
    engine = new_round(deadline=10)
    engine.offer("a", offer("a"), now=0)
    assert engine.next_tick(now=50) == 0
