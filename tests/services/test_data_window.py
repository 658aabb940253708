"""The trail says when the readings came from which a version was learnt."""

import datetime as dt
import math
import time

import pytest

from dl_mqtt_clients.data import arrivals
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Offer, Round
from service_helpers import FakeTrainer, feed, readings, start_manager, trainers, until

HOUR_S = 3600.0
PAIR = {"rounds__target_updates": 2, "rounds__min_updates": 2}


def seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def lies_in(text: str, begin_s: float, end_s: float) -> bool:
    """The trail knows seconds, and ages are rounded to thousandths."""
    return math.floor(begin_s - 0.01) <= seconds(text) <= end_s


# ---- from the sensor to the trail ----


def test_a_versions_window_is_when_its_readings_were_fed(broker_url, new_settings, watch, monkeypatch):
    monkeypatch.setattr(arrivals, "TOGETHER_S", 0.0)  # else the readings of a second count as one
    settings = new_settings(
        broker_url, **PAIR, training__window=64, training__min_readings=128, training__min_new_readings=128
    )
    seen, reports = watch(broker_url), []
    with (
        start_manager(settings, rounds=2, on_round=reports.append) as manager,
        Trainer("a", settings=settings),
        Trainer("b", settings=settings),
    ):
        for number in (1, 2):
            for node in "ab":
                seen.listens(node)
            seen.announced(lambda r, n=number: r.round == n)
            before = time.time()
            for node in "ab":
                feed(seen.client, node, readings(number, 128), qos=1)
            offers = [seen.offer(node, lambda o, n=number: o.round == n) for node in "ab"]
            at_offer = time.time()
            seen.manager(lambda s, n=number: s.version == n)
            until(lambda n=number: len(reports) == n)
            after = time.time()
            for offer in offers:
                assert 0.0 <= offer.newest_age_s <= offer.oldest_age_s <= at_offer - before + 0.001
            report = reports[number - 1]
            for told in (report, *report.participants):
                assert lies_in(told.data_from, before, after)
                assert lies_in(told.data_to, seconds(told.data_from), after)
        assert manager.wait(60)
    history = seen.history(lambda h: len(h.rounds) == 2)
    assert [r.data_from for r in history.rounds] == [r.data_from for r in reports]


def test_readings_held_from_before_a_restart_keep_their_age(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1, rounds__min_updates=1, training__min_readings=128)
    seen = watch(memory_url)
    with start_manager(settings) as manager:
        seen.announced()
        with Trainer("a", settings=settings):
            seen.listens("a")
            before = time.time()
            feed(seen.client, "a", readings(1, 96))
            seen.status("a", lambda s: s.window == 96)
        restarted = time.time()
        with Trainer("a", settings=settings) as second:
            seen.status("a", lambda s: s.instance == second._instance and s.window == 96 and not s.readings.last_error)
            feed(seen.client, "a", readings(2, 32))
            offer = seen.offer("a")
            now = time.time()
        manager.stop()
    assert now - restarted < offer.oldest_age_s + 0.001
    assert offer.oldest_age_s <= now - before + 0.001
    assert offer.newest_age_s <= now - restarted + 0.001


def test_the_ages_of_an_offer_grow_while_it_waits_also_over_a_restart(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1, rounds__min_updates=1)
    seen = watch(memory_url)
    with start_manager(settings) as manager:
        seen.announced()
        manager.stop()
    with Trainer("a", settings=settings):
        seen.listens("a")
        feed(seen.client, "a", readings(1, 128))
        seen.client.wait(lambda: len(seen.seen(seen.topics.offer("a"), Offer)) >= 2)
    first, second, *_ = seen.seen(seen.topics.offer("a"), Offer)
    assert second.oldest_age_s > first.oldest_age_s
    assert second.newest_age_s - first.newest_age_s == pytest.approx(second.oldest_age_s - first.oldest_age_s, abs=0.01)
    count = len(seen.seen(seen.topics.offer("a"), Offer))
    with Trainer("a", settings=settings):
        seen.client.wait(lambda: len(seen.seen(seen.topics.offer("a"), Offer)) > count)
    again = seen.seen(seen.topics.offer("a"), Offer)[count]
    assert again.sha256 == first.sha256
    assert again.oldest_age_s > second.oldest_age_s


def test_of_a_fixed_data_set_nothing_is_known(memory_url, new_settings):
    reports = []
    with trainers(new_settings(memory_url, **PAIR), ["a", "b"]) as both:
        start_manager(both[0].settings, rounds=1, on_round=reports.append).run()
    assert [(p.data_from, p.data_to) for p in reports[0].participants] == [("", "")] * 2
    assert (reports[0].data_from, reports[0].data_to) == ("", "")


# ---- at the manager ----


@pytest.fixture
def round_of_two(memory_url, new_settings, watch):
    """`round_of_two(ages of a, ages of b)`: the report of their round, and when it began and ended."""

    def run(*ages):
        seen, reports = watch(memory_url), []
        with start_manager(new_settings(memory_url, **PAIR), rounds=1, on_round=reports.append) as manager:
            announced, manifest = seen.announced(), seen.manifest()
            began = time.time()
            for node, said in zip("ab", ages, strict=True):
                fake = FakeTrainer(seen, node)
                data = fake.update(manifest)
                for earlier in said[:-1]:
                    offer = fake.offer(announced, data, **earlier)
                    fake.reply(offer)
                assert fake.contribute(announced, data, **said[-1]).kind == "receipt"
            assert manager.wait(20)
        return reports[0], began, time.time()

    return run


def ages(oldest_s=None, newest_s=None):
    return {"oldest_age_s": oldest_s, "newest_age_s": newest_s}


def test_ages_become_times_by_the_managers_clock(round_of_two):
    report, began, ended = round_of_two([ages(2 * HOUR_S, 60.0)], [ages(HOUR_S, 0.0)])
    a, b = report.participants
    assert lies_in(a.data_from, began - 2 * HOUR_S, ended - 2 * HOUR_S)
    assert lies_in(a.data_to, began - 60.0, ended - 60.0)
    assert lies_in(b.data_from, began - HOUR_S, ended - HOUR_S)
    assert lies_in(b.data_to, began, ended)
    assert (report.data_from, report.data_to) == (a.data_from, b.data_to)


def test_what_one_does_not_say_is_not_known_of_all(round_of_two):
    report, *_ = round_of_two([ages(HOUR_S, 60.0)], [ages(None, 30.0)])
    a, b = report.participants
    assert b.data_from == report.data_from == ""
    assert a.data_from < a.data_to <= b.data_to == report.data_to


def test_ages_that_contradict_each_other_say_nothing(round_of_two):
    report, *_ = round_of_two([ages(HOUR_S, 60.0)], [ages(60.0, HOUR_S)])
    assert (report.participants[1].data_from, report.participants[1].data_to) == ("", "")
    assert (report.data_from, report.data_to) == ("", "")


def test_the_largest_age_is_understood(round_of_two):
    report, *_ = round_of_two([ages(1e9, 1e9)], [ages(0.0, 0.0)])
    assert dt.datetime.fromisoformat(report.data_from).tzinfo is dt.UTC


def test_of_an_offer_that_is_repeated_the_one_under_way_for_the_least_time_counts(round_of_two):
    """The first was held up for an hour on its way: what it said of ages had been true then."""
    held_up, fresh = ages(HOUR_S, 60.0), ages(2 * HOUR_S, HOUR_S + 60.0)
    report, began, ended = round_of_two([held_up, fresh], [fresh, held_up])
    for one in report.participants:
        assert lies_in(one.data_from, began - 2 * HOUR_S, ended - 2 * HOUR_S)
        assert lies_in(one.data_to, began - HOUR_S - 60.0, ended - HOUR_S - 60.0)


def test_a_resumed_round_keeps_what_it_knew(memory_url, new_settings, watch):
    settings, seen, reports = new_settings(memory_url, **PAIR), watch(memory_url), []
    began = time.time()
    with start_manager(settings, rounds=1):
        announced, manifest = seen.announced(), seen.manifest()
        fake = FakeTrainer(seen, "a")
        assert fake.contribute(announced, fake.update(manifest), **ages(2 * HOUR_S, HOUR_S)).kind == "receipt"
    stopped, announcements = time.time(), len(seen.seen(seen.topics.round, Round))
    with start_manager(settings, rounds=1, on_round=reports.append) as manager:
        seen.client.wait(lambda: len(seen.seen(seen.topics.round, Round)) > announcements)
        other = FakeTrainer(seen, "b")
        assert other.contribute(announced, other.update(manifest), **ages(60.0, 0.0)).kind == "receipt"
        assert manager.wait(20)
    (a, b), report = reports[0].participants, reports[0]
    assert lies_in(a.data_from, began - 2 * HOUR_S, stopped - 2 * HOUR_S)
    assert lies_in(a.data_to, began - HOUR_S, stopped - HOUR_S)
    assert (report.data_from, report.data_to) == (a.data_from, b.data_to)
