"""Brokers that are not there, die, forget, or remember what is long past."""

import contextlib
import json
import logging
import os
import signal

import msgspec
import pytest

from brokers import Mosquitto
from dl_mqtt_clients.services import round_cycle
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.transport.embedded import EmbeddedBroker
from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus, Offer, Reply, Round
from dl_mqtt_clients.wire.topics import Topics
from service_helpers import FakeTrainer, readings, start_manager, trainers, until

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


def test_services_wait_for_a_broker_that_is_not_there_and_say_so(tmp_path, new_settings, watch, caplog, undisturbed):
    broker = Mosquitto(tmp_path / "late")
    settings = new_settings(broker.url, **ALL)
    caplog.set_level(logging.WARNING)
    with contextlib.ExitStack() as stack:
        stack.enter_context(trainers(settings))
        predictor = stack.enter_context(Predictor("p", settings=settings))
        manager = stack.enter_context(start_manager(settings, rounds=3))
        until(lambda: manager.last_error and predictor.last_error and predictor.stream.problem.startswith("broker"))
        assert "connection refused; trying again in" in manager.last_error
        for service in ("manager", "a:trainer", "p:predictor"):
            assert any(service in r.message and "connection refused" in r.message for r in caplog.records)
        stack.enter_context(broker)
        seen = watch(broker.url)
        seen.status("p", lambda s: s.number == 3, role="predictor")
        assert manager.wait(20)
    assert manager.versions.current.version == undisturbed


@pytest.fixture(params=["mosquitto", "embedded", "memory"])
def mortal(request, tmp_path, memory_broker, memory_url):
    """(url, kill, revive) of a broker of the test's own, which comes back empty."""
    if request.param == "memory":
        yield memory_url, memory_broker.kill, memory_broker.revive
        return
    if request.param == "embedded":
        with EmbeddedBroker() as broker:
            yield broker.url, broker.stop, broker.start
        return
    with Mosquitto(tmp_path / "m") as broker:
        yield broker.url, broker.kill, broker.start


def test_a_broker_that_dies_in_mid_round_costs_nothing(mortal, new_settings, watch, undisturbed):
    url, kill, revive = mortal
    settings = new_settings(url, **ALL)
    seen = watch(url)
    reports = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(trainers(settings, ["a", "b"]))
        stack.enter_context(Predictor("p", settings=settings))
        manager = stack.enter_context(start_manager(settings, rounds=3, on_round=reports.append))
        seen.manager(lambda s: s.accepted == 2)
        kill()
        seen.client.wait(lambda: seen.client.reasons)
        revive()
        again = watch(url, "again")
        again.manager(lambda s: s.accepted == 2)
        again.status("a", lambda s: s.state == "waiting")
        stack.enter_context(trainers(settings, ["c"]))
        assert manager.wait(20)
        again.status("p", lambda s: s.number == 3, role="predictor")
    assert manager.versions.current.version == undisturbed
    assert [(r.round, r.attempt) for r in reports] == [(1, 1), (2, 1), (3, 1)]
    assert_only_what_is_live(again.retained(url), again.topics, manager)


class HeldBack(Trainer):
    """Takes part in the first round, and in later ones when `free` is set."""

    free = False

    def _why_not(self):
        held_back = self._announced is not None and self._announced.round > 1 and not self.free
        return "held back" if held_back else super()._why_not()


def test_a_broker_that_brings_back_the_last_round_is_put_right(tmp_path, new_settings, watch, undisturbed):
    """Its disk has announcement, models, blobs and statuses of round 1; it is killed in the middle of round 2."""
    conf = f"persistence true\npersistence_location {tmp_path}/m/\nautosave_interval 0\n"
    with Mosquitto(tmp_path / "m", conf=conf) as broker, contextlib.ExitStack() as stack:
        settings = new_settings(broker.url, **ALL)
        seen = watch(broker.url)
        stack.enter_context(trainers(settings, ["a", "b"]))
        predictor = stack.enter_context(Predictor("p", settings=settings))
        manager = stack.enter_context(start_manager(settings, rounds=3))
        seen.manager(lambda s: s.accepted == 2)
        os.kill(broker.pid, signal.SIGUSR1)  # save now
        until(lambda: "Saving in-memory database" in broker.log and (tmp_path / "m" / "mosquitto.db").exists())
        c = stack.enter_context(HeldBack("c", settings=settings, readings=readings(ord("c"))))
        seen.manager(lambda s: s.round == 2 and s.accepted == 5 and s.production == 1)
        seen.status("p", lambda s: s.number == 1, role="predictor")
        broker.kill()
        broker.start()
        again = watch(broker.url, "again")
        assert again.announced().round in (1, 2)
        again.manager(lambda s: s.round == 2 and s.accepted == 5)
        assert predictor.manifest.number == 1  # and not what the broker has of it
        c.free = True
        c.loop.post(c._consider)
        assert manager.wait(20)
        again.status("p", lambda s: s.number == 3, role="predictor")
        assert manager.versions.current.version == undisturbed
        assert_only_what_is_live(again.retained(broker.url), again.topics, manager)


def assert_only_what_is_live(late, topics, manager):
    """What a late client finds is what the manager has, and no blob that nothing names."""
    for stage in ("global", "production"):
        assert json.loads(late[topics.model(stage)].payload)["version"] == manager.versions.current.version
    blobs = {topic.split("/")[4] for topic in late if topic.startswith(topics.blob("", "").rstrip("/"))}
    live = {b.sha256 for m in manager.versions.reachable() for b in m.blobs.values()}
    assert {b.sha256 for b in manager.versions.current.blobs.values()} <= blobs <= live


def test_a_broker_that_dies_in_mid_upload_gets_the_rest_and_no_more(
    tmp_path, new_settings, watch, memory_broker, memory_url
):
    settings = new_settings(
        memory_url, rounds__target_updates=1, transfer__chunk_bytes=64, transfer__chunks_in_flight=2,
        transfer__inline_bytes=0,
    )  # fmt: skip
    seen = watch(memory_url)
    sent = []
    topics = Topics(settings.federation.name)

    def count(delivery):
        if delivery.topic.startswith(topics.update("a", "", "").removesuffix("//")):
            sent.append(int(delivery.topic.rpartition("/")[2]))
            if len(sent) == 8:
                memory_broker.kill()

    seen.client._on_message = count
    with trainers(settings, ["a"]), start_manager(settings, rounds=1) as manager:
        seen.client.wait(lambda: seen.client.reasons)
        memory_broker.revive()
        assert manager.wait(20)
    offer = seen.offer("a")
    assert manager.versions.current.number == 1
    assert len(sent) <= -(-offer.bytes // 64) + 4


def test_what_an_old_life_left_on_the_broker_is_cleared_or_replaced(shared_mosquitto_url, new_settings, connect, watch):
    url = shared_mosquitto_url
    settings = new_settings(url, rounds__target_updates=1)
    topics = Topics(settings.federation.name)
    litter = connect(url, "litter").transport
    old_blob = "a" * 64
    for index in range(3):
        litter.publish(topics.blob(old_blob, index), b"old", retain=True, properties=[("chunks", "3")])
    litter.publish(topics.blob("b" * 64, 0), b"of a stranger", retain=True, properties=[("chunks", "9" * 6000)])
    old_round = Round(generation=1, round=7, phase="open", base="c" * 64)
    litter.publish(topics.round, msgspec.json.encode(old_round), retain=True)
    litter.publish(topics.model("production"), b'{"v": 1, "stage": "production"}', retain=True)
    litter.publish(topics.history, b'{"v": 1, "generation": 1, "rounds": []}', retain=True)
    litter.publish(topics.command, b'{"v": 1, "command": "stop"}', retain=True)
    stale = msgspec.json.encode(ManagerStatus(state="collecting", instance="somebody", round=7))
    litter.publish(topics.manager_status, stale, retain=True)
    seen = watch(url)
    with trainers(settings, ["a"]):
        manager = start_manager(settings, rounds=1).run()
    late = seen.retained(url)
    assert not [topic for topic in late if old_blob in topic or "b" * 64 in topic]
    assert json.loads(late[topics.round].payload)["round"] == 2
    assert len(json.loads(late[topics.history].payload)["rounds"]) == 1
    assert json.loads(late[topics.manager_status].payload)["state"] == "finished"
    assert_only_what_is_live(late, topics, manager)


def test_offers_that_the_broker_drops_are_made_again(memory_url, new_settings, watch, memory_broker, monkeypatch):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    dropped = {}
    original = memory_broker.publish

    def drop_two_of_each(delivery, *, retain):
        if delivery.topic.endswith(("/offer", "/reply")):
            dropped[delivery.topic] = dropped.get(delivery.topic, 0) + 1
            if dropped[delivery.topic] <= 2:
                return
        original(delivery, retain=retain)

    monkeypatch.setattr(memory_broker, "publish", drop_two_of_each)
    with trainers(settings):
        start_manager(settings, rounds=1).run()
    assert all(count > 2 for topic, count in dropped.items() if topic.endswith("/offer"))
    assert {p.node for p in seen.history(lambda h: h.rounds).rounds[0].participants} == {"a", "b", "c"}


def test_an_announcement_that_the_broker_forgot_is_made_again(
    memory_url, new_settings, watch, memory_broker, monkeypatch
):
    """rumqttd forgets one long before it expires; who comes then would wait for the next round."""
    monkeypatch.setattr(round_cycle, "ANNOUNCE_EVERY_S", 0.2)
    settings = new_settings(memory_url, **ALL)
    topic = Topics(settings.federation.name).round
    forgotten = []
    original = memory_broker.publish

    def forget_the_first(delivery, *, retain):
        if delivery.topic == topic and len(forgotten) < 2:
            forgotten.append(delivery)
        else:
            original(delivery, retain=retain)

    monkeypatch.setattr(memory_broker, "publish", forget_the_first)
    with trainers(settings):
        start_manager(settings, rounds=1).run()
    assert len(forgotten) == 2


@pytest.mark.parametrize("conf", ["max_queued_messages 1\nmax_inflight_messages 1\n"])
def test_two_hundred_light_trainers_are_all_counted_though_the_queue_holds_one(
    tmp_path, new_settings, watch, connect, conf
):
    count = 200
    with Mosquitto(tmp_path / "narrow", conf=conf) as broker:
        settings = new_settings(broker.url, rounds__target_updates=count, rounds__min_updates=count)
        seen, pushy = watch(broker.url), connect(broker.url, "pushy")
        reports = []
        with start_manager(settings, rounds=1, on_round=reports.append) as manager:
            crowd = Crowd(pushy, seen, settings, count)
            crowd.work_until(lambda: manager.wait(0.01))
    assert len(reports[0].participants) == count
    assert crowd.offers > count or crowd.receipts < count  # something was dropped on the way, indeed


class Crowd:
    """Many trainers in one client: each offers until it has its receipt."""

    def __init__(self, client, seen, settings, count):
        self.client, self.seen = client, seen
        self.offers = 0
        client.transport.subscribe(seen.topics.reply("+"))
        self.announced, self.manifest = seen.announced(), seen.manifest()
        fake = FakeTrainer(seen, "x")
        self.data = {f"n{i}": fake.update(self.manifest, value=0.001 * i) for i in range(count)}
        self.receipts = 0

    def work_until(self, done):
        open_ones, place = dict.fromkeys(self.data), 0
        while not done():
            for node in open_ones:
                self._offer(node)
            before = place
            with contextlib.suppress(BaseException):
                self.client.wait(lambda b=before: len(self.client.messages) > b, deadline_s=0.5)
            messages = self.client.messages[:]
            for delivery in messages[place:]:
                if delivery.topic.endswith("/reply"):
                    reply = msgspec.json.decode(delivery.payload, type=Reply)
                    if reply.kind == "receipt":
                        self.receipts += 1
                        open_ones.pop(delivery.topic.split("/")[4], None)
            place = len(messages)

    def _offer(self, node):
        fake = FakeTrainer(self.seen, node)
        fake.transport = self.client.transport
        offer: Offer = fake.offer(self.announced, self.data[node], inline=True)
        fake.send(offer.sha256, self.data[node], self.announced.chunk_bytes)
        self.offers += 1


def test_an_idle_federation_does_not_turn(memory_url, new_settings, watch):
    """Event-driven: a status every 30 s, and nothing else while nothing happens."""
    settings = new_settings(memory_url, rounds__target_updates=2)
    seen = watch(memory_url)
    with (
        start_manager(settings) as manager,
        Trainer("a", settings=settings) as a,
        Predictor("p", settings=settings) as p,
    ):
        seen.status("a", lambda s: s.version and s.state == "waiting")
        seen.status("p", lambda s: s.state != "starting", role="predictor")
        quiet = seen.client
        count = len(quiet.messages)
        with contextlib.suppress(BaseException):
            quiet.wait(lambda: len(quiet.messages) > count + 1000, deadline_s=0.7)  # time passes, nothing comes
        before = [s.loop.turns for s in (manager, a, p)]
        with contextlib.suppress(BaseException):
            quiet.wait(lambda: len(quiet.messages) > count + 1000, deadline_s=3.0)
        turns = [s.loop.turns - b for s, b in zip((manager, a, p), before, strict=True)]
    assert max(turns) <= 2, turns


def test_a_late_manager_finds_its_trainers_by_their_statuses(shared_mosquitto_url, new_settings, watch, undisturbed):
    """Target 0: as many as live; none of them is forgotten because another was heard first."""
    settings = new_settings(shared_mosquitto_url)
    seen = watch(shared_mosquitto_url)
    with trainers(settings):
        for node in "abc":
            seen.wait(seen.topics.status(node, "trainer"), NodeStatus, lambda s: s.state == "waiting")
        manager = start_manager(settings, rounds=3).run()
    assert manager.versions.current.version == undisturbed


def test_a_manager_that_comes_back_waits_for_all_live_trainers_again(memory_url, new_settings, watch, undisturbed):
    """With one of three updates accepted, the first status it hears must not make it close the round."""
    settings = new_settings(memory_url)
    seen = watch(memory_url)
    with trainers(settings):
        for node in "abc":
            seen.status(node, lambda s: s.state == "waiting")
        first = start_manager(settings, rounds=3)
        original = first._offer

        def only_a(topic, delivery):
            if topic.node == "a":
                original(topic, delivery)

        first._offer = only_a
        with first:
            seen.manager(lambda s: s.accepted == 1)
        manager = start_manager(settings, rounds=3).run()
    assert manager.versions.current.version == undisturbed
