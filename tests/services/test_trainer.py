"""The trainer while it fits: it reads on, answers, and stops within a batch; its window and its claims survive."""

import json

import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import NodeStatus, Offer, Round, Statistics, Training
from service_helpers import Forger, feed, paused, readings, start_manager, trainers, until

LONG = Training(epochs=1_000_000, batch_size=32, min_readings=32)  # hours


@pytest.fixture
def forger(memory_url, watch):
    return Forger(watch(memory_url))


def announce(forger, manifest, **changes):
    values = {"generation": 10, "round": 1, "phase": "open", "base": manifest.version, "training": LONG} | changes
    announced = Round(**values)
    topics = forger.seen.topics
    forger.seen.client.transport.publish(topics.round, msgspec.json.encode(announced), retain=True)
    return announced


@pytest.fixture
def fitting(memory_url, new_settings, forger):
    """A trainer of a stream in the middle of a fit of hours."""
    seen = forger.seen
    manifest = forger.publish("global")
    trainer = Trainer("a", settings=new_settings(memory_url, readings__buffer=400))
    with trainer:
        seen.listens("a")
        feed(seen.client, "a", readings(1, 128))
        seen.status("a", lambda s: s.window == 128 and s.version)
        announce(forger, manifest)
        seen.status("a", lambda s: s.state == "fitting" and s.progress == 0.0)
        yield trainer


def test_it_reads_on_while_it_fits_and_its_status_says_so(fitting, forger):
    seen = forger.seen
    feed(seen.client, "a", readings(2, 512))
    status = seen.status("a", lambda s: s.readings.received == 640)
    assert status.state == "fitting"
    assert status.window == 400  # bounded
    assert fitting._held.window.total == 640


def test_it_answers_while_it_fits(fitting, forger):
    """Its status was cleared by somebody: it is there again at once."""
    seen, topic = forger.seen, forger.seen.topics.status("a", "trainer")
    before = len(seen.seen(topic, NodeStatus))
    seen.client.transport.publish(topic, b"", retain=True)
    seen.client.wait(lambda: len(seen.seen(topic, NodeStatus)) > before)
    assert seen.seen(topic, NodeStatus)[-1].state == "fitting"


def test_stop_ends_a_fit_within_a_batch(fitting, forger):
    fitting.stop()
    assert fitting.wait(5)
    forger.seen.status("a", lambda s: s.state == "stopped")
    assert not forger.seen.seen(forger.seen.topics.offer("a"), Offer)


def test_a_new_announcement_ends_the_fit_and_begins_the_next(fitting, forger):
    newer = forger.publish("global")
    quick = Training(epochs=1, batch_size=32, min_readings=32)
    announce(forger, newer, round=2, training=quick)
    offer = forger.seen.offer("a")
    assert (offer.round, offer.base) == (2, newer.version)


def test_the_same_announcement_again_does_not_begin_the_fit_anew(fitting, forger):
    """A manager or broker that reconnects publishes it again, with what is left of the deadline."""
    until(lambda: fitting._progress > 0)
    before = fitting._progress
    announce(forger, fitting.manifest, deadline_s=3.0)
    until(lambda: fitting._announced is not None and fitting._announced.deadline_s == 3.0)
    until(lambda: fitting._progress > before)
    assert fitting.state == "fitting"


def test_another_model_in_mid_fit_waits_for_its_end(fitting, forger):
    """Also one of another architecture: the fit goes on with the model it began with, until it is told to stop."""
    from dl_mqtt_clients.learning.model import FederatedModel
    from service_helpers import SCALER, core

    forger.model = FederatedModel.from_core(core(hidden=(3,)), scaler=SCALER)
    other = forger.publish("global")
    forger.seen.status("a", lambda s: s.version == other.version and s.state == "fitting")
    announce(forger, other, round=2, training=Training(epochs=1, min_readings=32))
    offer = forger.seen.offer("a")
    assert offer.base == other.version
    shapes = sum(np.prod(v.shape) for v in other.variables[2:])
    assert shapes * 4 < offer.bytes < shapes * 4 + 1000


def test_the_window_and_what_is_new_of_it_survive_a_restart(memory_url, new_settings, watch):
    """Also what had arrived, and was not yet taken in, when it was stopped."""
    settings = new_settings(memory_url, rounds__target_updates=1, training__min_new_readings=100)
    seen = watch(memory_url)
    with start_manager(settings):
        seen.announced()
        with Trainer("a", settings=settings) as first:
            seen.listens("a")
            feed(seen.client, "a", readings(1, 128))
            seen.status("a", lambda s: s.accepted == 1)
            unused = 128 - first._outbox.used
            with paused(first):
                feed(seen.client, "a", readings(2, 96 - unused))
                until(lambda: len(first.stream) >= (96 - unused) // 32)
                first.stop()
        with Trainer("a", settings=settings) as second:
            seen.status("a", lambda s: s.instance == second._instance and s.new_readings == 96)
            seen.status("a", lambda s: s.instance == second._instance and not s.readings.last_error)
            feed(seen.client, "a", readings(3, 32))
            assert seen.offer("a", lambda o: o.round == 2).new_readings == 128


def test_a_window_that_began_anew_counts_all_of_it_as_new(memory_url, new_settings, watch):
    """Its spool is off, or was damaged: the count of readings begins at nought, the record of used ones does not."""
    settings = new_settings(memory_url, rounds__target_updates=1, training__min_new_readings=64, readings__spool=False)
    seen = watch(memory_url)
    with start_manager(settings):
        seen.announced()
        for number, rows in ((1, 256), (2, 64)):
            with Trainer("a", settings=settings) as trainer:
                seen.status("a", lambda s, t=trainer: s.instance == t._instance and not s.readings.last_error)
                feed(seen.client, "a", readings(number, rows))
                assert seen.offer("a", lambda o, n=number: o.round == n).new_readings in (256, 128, 64)
                seen.status("a", lambda s, t=trainer: s.instance == t._instance and s.accepted == 1)


def test_a_spool_that_cannot_be_made_costs_only_the_spool(memory_url, new_settings, forger, tmp_path):
    settings, seen = new_settings(memory_url), forger.seen
    (tmp_path / "state" / "a" / "trainer" / "readings.bin.new").mkdir(parents=True)
    manifest = forger.publish("global")
    with Trainer("a", settings=settings):
        seen.status("a", lambda s: "cannot use its spool" in s.last_error)
        seen.listens("a")
        feed(seen.client, "a", readings(1, 128))
        announce(forger, manifest, training=Training(min_readings=64))
        seen.offer("a")


def test_no_readings_that_can_be_learnt_from_are_waited_for(memory_url, new_settings, forger):
    """Labelled anomalous ones do not count for the task anomaly; the trainer says so and does not spin."""
    settings, seen = new_settings(memory_url), forger.seen
    manifest = forger.publish("global")
    with Trainer("a", settings=settings) as trainer:
        seen.listens("a")
        feed(seen.client, "a", readings(1, 64), labels=[1] * 64)
        announce(forger, manifest, training=Training(min_readings=64))
        seen.status("a", lambda s: s.detail == "no readings yet that can be learnt from")
        before = trainer.loop.turns
        with paused(trainer):
            pass
        assert trainer.loop.turns - before < 5
        feed(seen.client, "a", readings(1, 64), labels=[0] * 64)
        assert seen.offer("a").examples <= 64


def test_a_fit_that_diverges_is_said_and_the_round_left_to_the_others(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    manifest = forger.publish("global")
    with trainers(settings, ["a"]):
        announce(forger, manifest, training=Training(epochs=50, learning_rate=1e30))
        seen.status("a", lambda s: "diverged" in s.last_error and s.detail == "round 1 is done")
        announce(forger, manifest, round=2, training=Training(epochs=1))
        assert seen.offer("a").round == 2


def test_who_is_not_drawn_evaluates_all_the_same(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    manifest = forger.publish("global")
    with trainers(settings, ["a"]):
        announce(forger, manifest, fraction=1e-9)
        seen.status("a", lambda s: s.detail == "not drawn for round 1")
        sums = seen.wait(seen.topics.statistics("a", "trainer"), Statistics, lambda s: s.version == manifest.version)
    assert sums.found.readings > 0


def test_statistics_are_sent_again_to_a_manager_that_comes_back(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    forger.publish("global")
    topic = seen.topics.statistics("a", "trainer")
    with trainers(settings, ["a"]):
        seen.wait(topic, Statistics, lambda s: s.found.readings)
        last = seen.client.messages[
            max(i for i, d in enumerate(seen.client.messages) if d.topic == seen.topics.model("global"))
        ]
        seen.client.transport.publish(last.topic, last.payload, retain=True)
        seen.client.wait(lambda: len(seen.seen(topic, Statistics)) == 2)


def test_a_grant_of_absurd_chunks_sends_each_once(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    manifest = forger.publish("global")
    with trainers(settings, ["a"]):
        announce(forger, manifest, training=Training(), chunk_bytes=400)
        offer = seen.offer("a")
        grant = {
            "v": 1, "kind": "grant", "round": 1, "attempt": 1, "sha256": offer.sha256,
            "chunks": [0, 0, 0, 1, 10**9, 0, 1, 2**50],
        }  # fmt: skip
        seen.client.transport.publish(seen.topics.reply("a"), json.dumps(grant).encode())
        seen.client.transport.publish(seen.topics.reply("a"), json.dumps(grant | {"chunks": [2]}).encode())
        topic = seen.topics.update("a", offer.sha256, 2)
        seen.client.wait(lambda: topic in seen.client.topics())
        chunks = [t for t in seen.client.topics() if t.startswith(topic[:-1])]
    assert [t.rpartition("/")[2] for t in chunks] == ["0", "1", "2"]


def test_waiting_is_an_answer(memory_url, new_settings, forger):
    """Who was told to wait asks again after seconds only; who is not answered asks soon."""
    settings, seen = new_settings(memory_url), forger.seen
    manifest = forger.publish("global")
    with trainers(settings, ["a", "b"]) as (a, b):
        announce(forger, manifest, training=Training())
        offers = {node: seen.offer(node) for node in "ab"}
        wait = {"v": 1, "kind": "wait", "round": 1, "attempt": 1, "sha256": offers["a"].sha256}
        seen.client.transport.publish(seen.topics.reply("a"), json.dumps(wait).encode())
        count = lambda n: len(seen.seen(seen.topics.offer(n), Offer))  # noqa: E731
        seen.client.wait(lambda: count("b") >= 3)
        assert count("a") == 1
        assert a._outbox.offer is not None
        assert b._outbox.offer is not None
