"""What messages make of a fleet."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.dashboard.fleet import ANOMALIES_KEPT, Fleet, fold, subscriptions
from dl_mqtt_clients.wire.messages import History, ManagerStatus, encode
from fleets import TOPICS, announcement, anomaly, busy, receipt, report, told, trainer


def test_a_status_replaces_the_earlier_one_of_the_same_node_and_role():
    fleet = told(
        (TOPICS.status("a", "trainer"), trainer(state="waiting")),
        (TOPICS.status("a", "predictor"), trainer(state="scoring")),
        (TOPICS.status("a", "trainer"), trainer(state="fitting")),
    )
    assert {key: status.state for key, status in fleet.nodes.items()} == {
        ("a", "trainer"): "fitting",
        ("a", "predictor"): "scoring",
    }


def test_a_cleared_status_takes_the_node_away():
    topic = TOPICS.status("a", "trainer")
    assert told((topic, trainer()), (topic, b"")).nodes == {}


def test_history_is_taken_as_it_is_told():
    fleet = told((TOPICS.history, History(generation=1, rounds=(report(1), report(2, outcome="abandoned"), report(3)))))
    assert [r.round for r in fleet.rounds] == [1, 2, 3]
    assert [r.round for r in fleet.merged] == [1, 3]


def test_a_receipt_counts_for_the_open_attempt_only():
    fleet = told(
        (TOPICS.round, announcement(3)),
        (TOPICS.reply("a"), receipt(3)),
        (TOPICS.reply("b"), receipt(2)),
        (TOPICS.reply("c"), receipt(3, attempt=2)),
    )
    assert fleet.receipts == {"a"}


def test_receipts_are_forgotten_with_the_next_round_and_kept_when_the_same_one_is_announced_again():
    fleet = told((TOPICS.round, announcement(3)), (TOPICS.reply("a"), receipt(3)))
    assert told((TOPICS.round, announcement(3)), fleet=fleet).receipts == {"a"}
    assert told((TOPICS.round, announcement(3, attempt=2)), fleet=fleet).receipts == set()
    assert told((TOPICS.round, announcement(4)), fleet=fleet).receipts == set()


def test_the_newest_anomalies_are_kept():
    fleet = told(*[(TOPICS.anomaly("p"), anomaly(name=str(i))) for i in range(ANOMALIES_KEPT + 10)])
    assert len(fleet.anomalies) == ANOMALIES_KEPT
    assert fleet.anomalies[0].anomaly.id == str(ANOMALIES_KEPT + 9)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPICS.manager_status, b"\xff"),
        (TOPICS.status("a", "trainer"), b"{}"),
        (TOPICS.history, b"[]"),
        (TOPICS.anomaly("a"), b'{"v": 99}'),
        ("fedlearn/elsewhere", b"{}"),
    ],
)
def test_what_cannot_be_read_is_counted_and_changes_nothing_else(topic, payload):
    before = busy()
    after = fold(before, topic, payload, now=10.0)
    assert after.unreadable == before.unreadable + 1
    assert (after.nodes, after.rounds, after.manager) == (before.nodes, before.rounds, before.manager)


@given(st.binary(max_size=200), st.sampled_from(["manager/status", "history", "round", "node/a/trainer/status"]))
def test_no_payload_can_end_the_view(payload, place):
    fleet = fold(Fleet(topics=TOPICS), f"{TOPICS.root}/{place}", payload, now=1.0)
    assert fleet.messages == 1


def test_the_rate_is_a_mean_over_whole_seconds_and_falls_to_zero():
    fleet = Fleet(topics=TOPICS)
    for now in itertools.chain.from_iterable([second + k / 20 for k in range(20)] for second in range(100, 105)):
        fleet = fold(fleet, TOPICS.manager_status, encode(ManagerStatus(state="waiting")), now=now)
    assert fleet.message_rate(now=105.0) == pytest.approx(20.0)
    assert fleet.message_rate(now=107.5) == pytest.approx(12.0)
    assert fleet.message_rate(now=120.0) == 0.0
    assert len(fleet.arrivals) <= 7


@pytest.mark.parametrize(
    ("status", "share"),
    [
        (trainer(new_readings=0), 0.0),
        (trainer(new_readings=200), 0.25),
        (trainer(new_readings=4000), 0.5),
        (trainer(state="fitting", progress=0.5), 0.7),
        (trainer(state="offering"), 0.95),
        (trainer(round=2, new_readings=400), 0.0),
    ],
)
def test_a_trainers_share_grows_with_readings_then_with_the_fit(status, share):
    fleet = told((TOPICS.round, announcement(3, min_readings=1)), (TOPICS.status("a", "trainer"), status))
    assert fleet.share_done("a") == pytest.approx(share)


def test_a_round_is_as_far_as_its_living_trainers_are_in_the_mean():
    fleet = told(
        (TOPICS.round, announcement(3)),
        (TOPICS.status("a", "trainer"), trainer(state="offering")),
        (TOPICS.status("b", "trainer"), trainer(new_readings=0)),
        (TOPICS.status("c", "trainer"), trainer(state="lost")),
        (TOPICS.reply("a"), receipt(3)),
    )
    assert fleet.round_done() == pytest.approx(0.5)


def test_reading_rates_of_living_nodes_add_up():
    fleet = told((TOPICS.status("a", "trainer"), trainer()), (TOPICS.status("b", "trainer"), trainer(state="lost")))
    assert fleet.reading_rate() == 250.0


def test_models_and_updates_are_not_subscribed():
    assert not any("blob" in topic or "update" in topic for topic in subscriptions(TOPICS))
