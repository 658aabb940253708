"""Asynchronous rounds: what is counted, when, and once."""

from dataclasses import replace

from dl_mqtt_clients.aggregation.rounds import Accepted, Close, Expect, Receipt, Refuse, Renew, Verify, Wait
from round_helpers import BASE, new_round, offer, plan, sha

OLD, OLDER, TOO_OLD = sha("old"), sha("older"), sha("too-old")
ASYNC = plan(mode="async", stale={OLD: 1, OLDER: 2}, target_updates=3, min_updates=2, inline_bytes=1000, renew_s=7.0)


def counted(round_, node: str, *, now: float = 0.0, **changes):
    """The decisions after a whole update of one chunk was stored."""
    made = offer(node, chunks=1, inline=True, **changes)
    assert Expect(node, made) in round_.offer(node, made, now=now)
    assert round_.chunk(node, made.sha256, 0, now=now)[-1] == Verify(node)
    return round_.stored(node, now=now)


def test_an_update_of_an_earlier_round_counts_with_its_staleness():
    round_ = new_round(plan_=ASYNC)
    counted(round_, "a")
    counted(round_, "b", round=3, attempt=1, base=OLDER)
    assert {n: a.staleness for n, a in round_.accepted.items()} == {"a": 0, "b": 2}


def test_a_base_too_far_back_is_refused_and_a_round_to_come_too():
    round_ = new_round(plan_=ASYNC)
    (refused,) = round_.offer("a", offer("a", round=2, base=TOO_OLD), now=0.0)
    assert isinstance(refused, Refuse)
    assert "too old" in refused.reason
    (refused,) = round_.offer("a", offer("a", round=6), now=0.0)
    assert "another round" in refused.reason


def test_the_full_buffer_closes_the_round():
    round_ = new_round(plan_=ASYNC)
    assert Close() not in counted(round_, "a") + counted(round_, "b", round=4, base=OLD)
    assert counted(round_, "c", round=3, base=OLDER)[-1] == Close()


def test_a_second_update_of_a_node_waits_for_the_next_buffer():
    round_ = new_round(plan_=ASYNC)
    counted(round_, "a", round=4, base=OLD)
    second = offer("a", chunks=1, inline=True, sha256=sha("second"))
    assert round_.offer("a", second, now=0.0) == [Wait("a", second.sha256)]
    following = new_round(plan_=replace(ASYNC, round=6, base=sha("next"), stale={BASE: 1, OLD: 2}))
    assert Expect("a", second) in following.offer("a", second, now=0.0)


def test_an_update_counted_in_the_last_round_gets_its_receipt_again_and_counts_no_more():
    for mode in ("async", "sync"):
        round_ = new_round(plan_=replace(ASYNC, mode=mode, recent={"a": sha("a")}))
        assert round_.offer("a", offer("a", round=4, base=OLD), now=0.0) == [Receipt("a", sha("a"))]
        assert not round_.accepted


def test_too_few_at_the_deadline_are_kept_and_the_round_goes_on():
    round_ = new_round(plan_=ASYNC, deadline=10.0)
    counted(round_, "a", now=9.0)
    assert round_.tick(now=10.0) == [Renew()]
    assert round_.deadline == 17.0
    counted(round_, "b", now=11.0)
    assert round_.tick(now=17.0) == [Close()]


def test_enough_at_the_deadline_close():
    round_ = new_round(
        plan_=ASYNC, deadline=10.0, accepted=[Accepted("a", sha("a"), 5, None), Accepted("b", sha("b"), 5, None, 1)]
    )
    assert round_.tick(now=10.0) == [Close()]
