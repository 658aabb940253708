"""A site with a broker of its own, bridged to the centre's; and a federation that moves to another broker."""

import contextlib
import itertools
import re

import pytest

from brokers import Mosquitto, needs_mosquitto
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.transport.embedded import EmbeddedBroker
from dl_mqtt_clients.wire.bridge import Bridge
from dl_mqtt_clients.wire.messages import NodeStatus, Round
from dl_mqtt_clients.wire.topics import _KINDS, Topics
from service_helpers import readings, start_manager, trainers

pytestmark = needs_mosquitto
ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


@pytest.fixture
def centre(tmp_path):
    with Mosquitto(tmp_path / "centre") as broker:
        yield broker


def site_of(centre, tmp_path, federation, nodes):
    bridge = Bridge(federation=federation, site="north", nodes=nodes, host="127.0.0.1", port=port_of(centre))
    return Mosquitto(tmp_path / "site", conf=bridge.configuration())


def port_of(broker):
    return int(broker.url.rpartition(":")[2])


def test_nodes_behind_a_bridge_federate_as_the_others(centre, tmp_path, new_settings, watch, undisturbed):
    with contextlib.ExitStack() as stack:
        there = new_settings(centre.url, **ALL)
        site = stack.enter_context(site_of(centre, tmp_path, there.federation.name, ["a", "b", "p"]))
        here = new_settings(site.url, **ALL)
        seen = watch(site.url)
        stack.enter_context(trainers(here, ["a", "b"]))
        stack.enter_context(Predictor("p", settings=here))
        stack.enter_context(trainers(there, ["c"]))
        manager = stack.enter_context(start_manager(there, rounds=3))
        seen.status("p", lambda s: s.number == 3, role="predictor")
        assert manager.wait(20)
    assert manager.versions.current.version == undisturbed  # bit by bit: the bridge changes nothing


def test_only_what_must_cross_the_bridge_crosses_it(centre, tmp_path, new_settings, watch, connect):
    settings = new_settings(centre.url)
    with site_of(centre, tmp_path, settings.federation.name, ["a"]) as site:
        at_the_site, at_the_centre = watch(site.url, "site"), watch(centre.url, "centre")
        for broker, client in ((site, at_the_site.client), (centre, at_the_centre.client)):
            client.transport.subscribe("reading/#")
            client.transport.subscribe("score/#")
            client.transport.publish("reading/a", broker.url.encode())
            client.wait_messages(1)  # from now on it hears everything
        wait_for_bridge(at_the_site)
        topics = at_the_site.topics
        up = {topics.offer("a"), topics.status("a", "trainer"), topics.update("a", "0" * 64, 0)}
        down = {topics.round, topics.model("global"), topics.blob("0" * 64, 0), topics.reply("a")}
        kept_there = {topics.history, topics.reply("z"), topics.command, topics.manager_status, topics.offer("z")}
        kept_here = {topics.offer("z"), topics.status("z", "trainer"), "score/a", "reading/z"}
        for topic in (*kept_here, *sorted(up)):
            at_the_site.client.transport.publish(topic, b"from the site")
        for topic in (*kept_there, *sorted(down)):
            at_the_centre.client.transport.publish(
                topic, b"from the centre", retain=True
            )  # the bridge may not be up yet
        at_the_centre.client.wait(lambda: crossed(at_the_centre, b"from the site") >= up)
        at_the_site.client.wait(lambda: crossed(at_the_site, b"from the centre") >= down)
        assert crossed(at_the_centre, b"from the site") == up
        assert crossed(at_the_site, b"from the centre") == down
        assert [d.payload for d in at_the_site.client.messages if d.topic == "reading/a"] == [site.url.encode()]


def wait_for_bridge(watch):
    """Mosquitto tells at the site when the line is up."""
    watch.client.transport.subscribe("$SYS/broker/connection/#")
    watch.client.wait(lambda: any(d.topic.startswith("$SYS") and d.payload == b"1" for d in watch.client.messages))


def crossed(watch, payload):
    return {delivery.topic for delivery in watch.client.messages if delivery.payload == payload}


def test_what_a_message_says_of_itself_crosses_too(centre, tmp_path, new_settings, watch):
    """The rest of a round is the announcement's expiry."""
    settings = new_settings(centre.url)
    with site_of(centre, tmp_path, settings.federation.name, ["a"]) as site, start_manager(settings):
        announced = heard_late(site, watch)
    assert announced.retained
    assert 0 < announced.expiry_s <= settings.rounds.deadline_s


def test_a_centre_that_drops_the_retain_flag_can_be_no_centre(tmp_path, new_settings, watch):
    """MQTT 5's "retain as published", which bridges ask for: a node that comes later would find no model."""
    with EmbeddedBroker() as centre:
        settings = new_settings(centre.url)
        with site_of(centre, tmp_path, settings.federation.name, ["a"]) as site:
            seen = watch(site.url)
            with start_manager(settings):
                seen.wait(seen.topics.round, Round, lambda _: True)
                assert seen.retained(site.url) == {}


def heard_late(site, watch):
    """The announcement as a node hears it that comes when it is there already."""
    seen = watch(site.url)
    seen.wait(seen.topics.round, Round, lambda _: True)
    late = watch(site.url, "late")
    late.wait(late.topics.round, Round, lambda _: True)
    return next(delivery for delivery in late.client.messages if delivery.topic == late.topics.round)


def test_a_cut_line_to_the_centre_costs_no_update(centre, tmp_path, new_settings, watch, undisturbed):
    with contextlib.ExitStack() as stack:
        there = new_settings(centre.url, **ALL)
        site = stack.enter_context(site_of(centre, tmp_path, there.federation.name, ["a", "b"]))
        here = new_settings(site.url, **ALL)
        stack.enter_context(trainers(here, ["a", "b"]))
        manager = stack.enter_context(start_manager(there, rounds=3))
        watch(centre.url).manager(lambda s: s.accepted == 2)
        centre.restart()
        stack.enter_context(trainers(there, ["c"]))
        assert manager.wait(30)
    assert manager.versions.current.version == undisturbed


@pytest.mark.parametrize("old_and_new", [("mosquitto", "embedded"), ("embedded", "mosquitto")], ids="-".join)
def test_a_federation_moves_to_another_broker_and_goes_on(old_and_new, tmp_path, new_settings, watch, undisturbed):
    """Nothing is carried over: what a broker held is on the manager's and the nodes' disks."""
    made = {"mosquitto": lambda: Mosquitto(tmp_path / "m"), "embedded": EmbeddedBroker}
    first = None
    for number, kind in zip((1, 3), old_and_new, strict=True):
        with contextlib.ExitStack() as stack:
            broker = stack.enter_context(made[kind]())
            settings = new_settings(broker.url, **ALL)
            seen = watch(broker.url, kind)
            stack.enter_context(trainers(settings))
            predictor = stack.enter_context(Predictor("p", settings=settings))
            manager = stack.enter_context(start_manager(settings, rounds=number))
            seen.status("p", lambda s, number=number: s.number == number, role="predictor")
            assert manager.wait(20)
            generation = predictor.manifest.generation
        first = first or generation
        assert generation == first  # the same federation, not a fresh start
    assert manager.versions.current.version == undisturbed


def test_nodes_move_to_the_new_broker_one_by_one(tmp_path, new_settings, watch, undisturbed):
    """The manager moves first; a bridge from the old broker to the new one brings along who has not moved yet."""
    with contextlib.ExitStack() as stack:
        new = stack.enter_context(Mosquitto(tmp_path / "new"))
        there = new_settings(new.url, **ALL)
        old = stack.enter_context(site_of(new, tmp_path, there.federation.name, ["a", "b", "c"]))
        here = new_settings(old.url, **ALL)
        staying = stack.enter_context(contextlib.ExitStack())
        staying.enter_context(trainers(here, ["b", "c"]))
        moving = stack.enter_context(contextlib.ExitStack())
        moving.enter_context(trainers(here, ["a"]))
        manager = stack.enter_context(start_manager(there, rounds=3))
        seen = watch(new.url)
        seen.wait(seen.topics.round, Round, lambda r: r.round == 2)
        moving.close()
        stack.enter_context(Trainer("a", settings=there, readings=readings(ord("a"))))
        assert manager.wait(30)
        assert [s.state for s in seen.seen(seen.topics.status("a", "trainer"), NodeStatus)].count("stopped") == 1
    assert manager.versions.current.version == undisturbed


def test_each_topic_crosses_in_one_direction_only():
    """Else a message would go round in circles."""
    bridge = Bridge(federation="f", site="s", nodes=["a", "b"], host="h", port=1)
    levels = [(pattern.split("/"), direction) for pattern, direction in bridge.topics()]
    for (one, way), (other, back) in itertools.product(levels, levels):
        if way != back:
            assert any(x != y and "+" not in (x, y) for x, y in zip(one, other, strict=False)) or len(one) != len(other)


def test_all_that_a_node_says_and_hears_crosses():
    """A new topic of nodes needs its line."""
    bridge = Bridge(federation="f", site="s", nodes=["a"], host="h", port=1)
    crossing = [pattern.replace("+", "[^/]+") for pattern, _ in bridge.topics()]
    for role, kinds in _KINDS.items():
        for kind in kinds:
            topic = f"{Topics('f').root}/node/a/{role}/{kind}"
            assert any(re.fullmatch(pattern, topic) for pattern in crossing), topic
