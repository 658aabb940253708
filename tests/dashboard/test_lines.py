"""What happens, told in lines."""

import pytest

from dl_mqtt_clients.dashboard.lines import describe_round, news
from dl_mqtt_clients.wire.messages import History
from fleets import TOPICS, report, told, trainer


def history(*rounds):
    return TOPICS.history, History(generation=1, rounds=rounds)


def test_a_round_is_told_once_and_its_auroc_when_it_is_known():
    nothing = told()
    first = told(history(report(1, auroc=None)))
    measured = told(history(report(1, auroc=0.9)))
    assert list(news(nothing, first)) == ["round 1 merged: 2 updates of 1,000 readings, loss 0.5, 1.5 s"]
    assert list(news(first, first)) == []
    assert list(news(first, measured)) == ["version 1: AUROC 0.900 on the predictors' labelled readings"]
    assert list(news(nothing, measured)) == [
        "round 1 merged: 2 updates of 1,000 readings, loss 0.5, AUROC 0.900, 1.5 s"
    ]


def test_who_was_left_out_is_named():
    line = describe_round(report(2, outcome="abandoned", nodes=("a",), left_out=("b", "c"), auroc=None))
    assert line == "round 2 abandoned: 1 updates of 500 readings, without b, c, loss 0.25, 1.5 s"


def test_what_became_of_a_version_is_told_once_with_its_reason():
    first, waits = told(history(report(1))), told(history(report(1, promotion="wait: expected at least 3 nodes")))
    rejected = told(history(report(1, promotion="reject: loss +40.00%\x1b[2J")))
    assert list(news(first, rejected)) == ["version 1 rejected: loss +40.00%?[2J"]
    assert list(news(rejected, rejected)) == []
    assert list(news(first, waits)) == ["version 1 waiting: expected at least 3 nodes"]
    assert list(news(told(), rejected))[1:] == ["version 1 rejected: loss +40.00%?[2J"]


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        ("rescaled", "version 4: a new scaler, from the sums of 2 nodes"),
        ("returned", "version 4: back to the best one's weights"),
    ],
)
def test_a_version_that_no_round_merged_is_told_as_what_it_is(outcome, line):
    assert describe_round(report(4, outcome=outcome)) == line


def test_a_lost_node_and_a_new_error_are_told_once():
    topic = TOPICS.status("a", "trainer")
    well, failing, lost = (
        told((topic, trainer())),
        told((topic, trainer(last_error="oh\x1b[2J"))),
        told((topic, trainer(state="lost"))),
    )
    assert list(news(well, failing)) == ["a: oh?[2J"]
    assert list(news(failing, failing)) == []
    assert list(news(failing, lost)) == ["a: lost"]
    assert list(news(lost, lost)) == []
