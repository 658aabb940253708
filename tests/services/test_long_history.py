"""The history is published as far as a message can hold it, and says what it had to leave out."""

import msgspec
import pytest

from dl_mqtt_clients.services import manager as manager_module
from dl_mqtt_clients.wire.messages import MAX_JSON_BYTES, History, Participant, RoundReport
from service_helpers import start_manager, trainers


@pytest.fixture
def publish(memory_url, new_settings, watch, monkeypatch):
    """`publish(bytes)`: the history of three rounds of three nodes when a message may hold so much."""

    def run(most):
        monkeypatch.setattr(manager_module, "HISTORY_BYTES", most)
        settings = new_settings(memory_url, rounds__target_updates=3, rounds__min_updates=3)
        seen = watch(memory_url)
        with trainers(settings):
            start_manager(settings, rounds=3).run()
        return seen.history(lambda h: h.rounds and h.rounds[-1].round == 3)

    return run


def test_the_newest_rounds_that_fit_are_published_and_the_others_counted(publish):
    history = publish(3000)
    assert [r.round for r in history.rounds] == [2, 3]
    assert history.omitted == 1
    assert all(len(r.participants) == 3 for r in history.rounds)


def test_a_round_that_does_not_fit_alone_is_told_in_numbers(publish):
    history = publish(100)
    (report,) = history.rounds
    assert (report.participants, report.unnamed, report.metrics.nodes) == ((), 3, 3)
    assert history.omitted == 2


def test_two_thousand_nodes_fit_into_what_everybody_decodes():
    who = tuple(Participant(node=f"{'n' * 56}{k:08d}", examples=2**53, loss=1 / 3, weight=1 / 3) for k in range(2000))
    report = RoundReport(round=1, attempt=1, outcome="merged", participants=who)
    assert len(msgspec.json.encode(History(generation=1, rounds=(report,)))) < manager_module.HISTORY_BYTES
    assert manager_module.HISTORY_BYTES < MAX_JSON_BYTES // 2
