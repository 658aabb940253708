"""Rounds as the services live them: who takes part, when they close, and what happens when too few come."""

import pytest

from dl_mqtt_clients.aggregation.cohort import is_drawn
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import History, Offer, Round
from service_helpers import FakeTrainer, feed, readings, start_manager, trainers


def test_a_trainer_waits_for_enough_readings_and_says_so(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1)
    seen = watch(memory_url)
    with start_manager(settings), Trainer("a", settings=settings):
        seen.announced()
        seen.listens("a")
        feed(seen.client, "a", readings(1, 32))
        status = seen.status("a", lambda s: s.window == 32 and s.detail)
        assert status.detail == "32 of 64 readings"
        assert not seen.seen(seen.topics.offer("a"), Offer)
        feed(seen.client, "a", readings(2, 64))
        offer = seen.offer("a")
        assert offer.round == 1
        assert 64 <= offer.examples <= 96


def test_a_trainer_takes_part_again_only_after_enough_new_readings(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1, training__min_new_readings=100)
    seen = watch(memory_url)
    with start_manager(settings), Trainer("a", settings=settings):
        seen.announced()
        seen.listens("a")
        feed(seen.client, "a", readings(1, 128))
        seen.status("a", lambda s: s.accepted == 1)
        seen.announced(lambda r: r.round == 2)
        waiting = seen.status("a", lambda s: s.accepted == 1 and s.detail.endswith("new readings"))
        used = int(waiting.detail.split(" of ")[0])
        feed(seen.client, "a", readings(2, 96 - used))
        seen.status("a", lambda s: s.detail == "96 of 100 new readings")
        feed(seen.client, "a", readings(3, 32))
        assert seen.offer("a", lambda o: o.round == 2).new_readings == 128


def test_only_the_drawn_nodes_fit_and_the_round_closes_when_they_have_delivered(memory_url, new_settings, watch):
    """With a fraction and no fixed target: as many as there are live trainers in the cohort."""
    settings = new_settings(memory_url, rounds__fraction=0.6, rounds__min_updates=1)
    nodes = [f"n{i}" for i in "abcdef"]
    drawn = {n for n in nodes if is_drawn("fedlearn", round_number=1, attempt=1, node=n, fraction=0.6)}
    assert 2 <= len(drawn) < len(nodes)
    seen = watch(memory_url)
    reports = []
    with trainers(settings, nodes):
        for node in nodes:
            seen.status(node, lambda s: s.state == "waiting")
        start_manager(settings, rounds=1, on_round=reports.append).run()
    assert {p.node for p in reports[0].participants} == drawn
    assert reports[0].seconds < settings.rounds.deadline_s / 2
    assert seen.seen(seen.topics.round, Round)[0].fraction == 0.6


def test_a_cohort_too_small_for_the_quorum_is_announced_again_with_a_larger_fraction(memory_url, new_settings, watch):
    fraction, nodes = 0.3, ["na", "nb", "nc"]
    few = sum(is_drawn("fedlearn", round_number=1, attempt=1, node=n, fraction=fraction) for n in nodes)
    assert few < 3
    settings = new_settings(memory_url, rounds__fraction=fraction, rounds__min_updates=3, rounds__fraction_growth=4.0)
    reports = []
    with trainers(settings, nodes):
        start_manager(settings, rounds=1, on_round=reports.append).run()
    assert [(r.attempt, r.outcome, len(r.participants)) for r in reports] == [(1, "abandoned", few), (2, "merged", 3)]
    assert reports[0].seconds < settings.rounds.deadline_s / 2  # at once: nothing could come any more


def test_too_few_at_the_deadline_abandon_the_attempt_and_nothing_of_it_is_merged(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__deadline_s=2.0, rounds__min_updates=2, rounds__target_updates=2)
    seen = watch(memory_url)
    reports = []
    with trainers(settings, ["a"]), start_manager(settings, rounds=1, on_round=reports.append) as manager:
        second = seen.announced(lambda r: r.attempt == 2)
        assert (second.round, second.base) == (1, manager.versions.current.version)
        with trainers(settings, ["b"]):
            seen.manager(lambda s: s.state == "finished")
    assert (reports[0].attempt, reports[0].outcome, reports[0].version) == (1, "abandoned", None)
    assert [p.node for p in reports[0].participants] == ["a"]
    merged = reports[-1]
    assert (merged.outcome, [p.node for p in merged.participants]) == ("merged", ["a", "b"])
    assert merged.attempt >= 2


def test_a_quorum_closes_at_the_deadline_and_says_who_was_left_out(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__deadline_s=2.0, rounds__min_updates=1, rounds__target_updates=3)
    reports = []
    with trainers(settings, ["a", "b"]), Trainer("slow", settings=settings):  # no readings ever reach this one
        start_manager(settings, rounds=1, on_round=reports.append).run()
    assert (reports[0].outcome, [p.node for p in reports[0].participants]) == ("merged", ["a", "b"])
    assert reports[0].left_out == ("slow",)
    assert reports[0].seconds == pytest.approx(2.0, abs=1.0)


def test_a_round_without_any_node_waits_and_fills_no_history(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__deadline_s=0.3)
    seen = watch(memory_url)
    with start_manager(settings):
        for _ in range(3):
            seen.wait_next(seen.topics.round, Round)
        assert all((r.round, r.attempt) == (1, 1) for r in seen.seen(seen.topics.round, Round))
        assert not any(h.rounds for h in seen.seen(seen.topics.history, History))
        with trainers(settings, ["a"]):
            seen.history(lambda h: any(r.outcome == "merged" for r in h.rounds))


def test_between_rounds_there_is_the_pause_and_nobody_is_asked(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1, rounds__pause_s=1.0, rounds__deadline_s=0.9)
    seen = watch(memory_url)
    with trainers(settings, ["a"]):
        start_manager(settings, rounds=2).run()
    phases = [(r.round, r.attempt, r.phase) for r in seen.seen(seen.topics.round, Round)]
    assert phases == [(1, 1, "open"), (2, 1, "idle"), (2, 1, "open"), (3, 1, "idle")]


def test_a_claim_of_a_million_examples_is_capped(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=2, training__window=500, training__epochs=2)
    seen = watch(memory_url)
    reports = []
    with start_manager(settings, rounds=1, on_round=reports.append):
        announced, manifest = seen.announced(), seen.manifest()
        liar, honest = FakeTrainer(seen, "liar"), FakeTrainer(seen, "honest")
        assert liar.contribute(announced, liar.update(manifest), examples=10**6).kind == "receipt"
        assert honest.contribute(announced, honest.update(manifest), examples=1000).kind == "receipt"
        seen.manager(lambda s: s.version == 1)
    assert [p.weight for p in reports[0].participants] == [0.5, 0.5]
