"""Hostile bytes on every topic a service reads: it lives, says why in its status, and goes on as if nothing was."""

import json
import random
from contextlib import ExitStack

import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import MAX_JSON_BYTES, Blob, NodeStatus, Round, Variable
from dl_mqtt_clients.wire.transfer import chunk, chunk_count, sha256
from dl_mqtt_clients.wire.weights import encode
from service_helpers import SCALER, Forger, core, feed, readings, scores_of, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}
SHA = "d" * 64

GARBAGE = {
    "random": random.Random(1).randbytes(1000),
    "nothing but nulls": bytes(100),
    "not UTF-8": b'{"v": 1, "state": "\xff\xfe"}',
    "cut off": b'{"v": 1, "round": ',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "huge": b'{"v": 1, "x": "' + b"y" * (MAX_JSON_BYTES + 10) + b'"}',
    "a number": b"17",
    "a list": b"[1, 2, 3]",
    "wrong types": b'{"v": "one", "round": "two", "state": 3, "sha256": [], "stage": {}, "data": {"x": []}}',
    "infinite": b'{"v": 1, "round": 1e999, "attempt": -1, "data": [1e999, NaN]}',
    "large numbers": b'{"v": 1, "round": ' + b"9" * 5000 + b"}",
    "newer": b'{"v": 99}',
    "twice": b'{"v": 1, "v": 1, "state": "waiting", "state": "lost"}',
}


@pytest.fixture(params=["memory", "mosquitto"])
def url(request, memory_url):
    return memory_url if request.param == "memory" else request.getfixturevalue("shared_mosquitto_url")


def test_a_federation_under_garbage_ends_with_the_same_bits(url, new_settings, watch, undisturbed):
    settings = new_settings(url, **ALL)
    seen = watch(url)
    topics = seen.topics
    everywhere = [
        topics.status("x", "trainer"), topics.status("a", "trainer"), topics.status("x", "predictor"),
        topics.status("x", "boss"), topics.offer("x"), topics.offer("a"), topics.statistics("x", "trainer"),
        topics.statistics("x", "predictor"), topics.update("x", SHA, 0), topics.update("a", SHA, 3),
        topics.update("x", "no-hash", "no-number"), topics.status("bad.name", "trainer"), topics.command,
        topics.blob(SHA, 0), topics.blob("no-hash", 0), topics.manager_status, topics.reply("a"), topics.reply("b"),
        topics.round, topics.model("global"), topics.model("production"), topics.status("p", "predictor"),
    ]  # fmt: skip
    say = seen.client.transport.publish
    with ExitStack() as stack:
        stack.enter_context(trainers(settings, ["a", "b"]))
        stack.enter_context(Predictor("p", settings=settings))
        manager = stack.enter_context(start_manager(settings, rounds=3))
        seen.manager(lambda s: s.accepted == 2)
        for topic in everywhere:
            for payload in GARBAGE.values():
                say(topic, payload)
            say(topic, b"")
        seen.manager(lambda s: s.refused.get("malformed message", 0) > 50)
        seen.status("b", lambda s: topics.root in s.last_error)
        seen.status("p", lambda s: topics.root in s.last_error, role="predictor")
        stack.enter_context(trainers(settings, ["c"]))
        assert manager.wait(30)
        seen.status("p", lambda s: s.number == 3, role="predictor")
    assert manager.versions.current.version == undisturbed
    status = manager.current_status()
    assert status.last_error
    assert len(msgspec.json.encode(status)) < 4000


def test_retained_garbage_is_no_obstacle_to_who_starts_later(url, new_settings, watch, undisturbed):
    settings = new_settings(url, **ALL)
    seen = watch(url)
    topics = seen.topics
    for number, topic in enumerate(
        (topics.round, topics.model("global"), topics.model("production"), topics.manager_status, topics.history,
         topics.status("a", "trainer"), topics.status("p", "predictor"), topics.command)
    ):  # fmt: skip
        payload = list(GARBAGE.values())[number]
        seen.client.transport.publish(topic, payload, retain=True)
    with trainers(settings), Predictor("p", settings=settings):
        manager = start_manager(settings, rounds=3)
        with manager:
            assert manager.wait(30)
            seen.status("p", lambda s: s.number == 3, role="predictor")
    assert manager.versions.current.version == undisturbed


# ---- manifests ---------------------------------------------------------------------------------------------------


def description():
    return json.loads(FederatedModel.from_core(core(), scaler=SCALER).architecture)


def with_a_lambda():
    architecture = description()
    config = {"name": "x", "function": {"class_name": "__lambda__", "config": {"code": "4wAAAA=="}}}
    one = {"class_name": "Lambda", "module": "keras.layers", "config": config, "registered_name": None}
    architecture["core"]["config"]["layers"].insert(1, one)
    return json.dumps(architecture).encode()


def bomb():
    architecture = description()
    for one in architecture["core"]["config"]["layers"]:
        if "units" in one["config"]:
            one["config"]["units"] = 10**7
    return json.dumps(architecture).encode()


def all_weights(value):
    weights = FederatedModel.from_core(core(), scaler=SCALER).get_weights()
    weights[-1][:] = value
    return encode(weights)


HUGE = Blob(sha256="e" * 64, bytes=2**52, chunk_bytes=1000)
SMALL = Blob(sha256="e" * 64, bytes=100, chunk_bytes=1000)
VAST = Variable(role="trainable", shape=(2**31, 2**31), dtype="float32", path="x")
ODD = Variable(role="trainable", shape=(2,), dtype="complex", path="x")
ATTACKS = {  # what is changed, and the reason that is given
    "architecture bomb": (lambda: {"architecture": bomb()}, "at most 200000000"),
    "code": (lambda: {"architecture": with_a_lambda()}, "Lambda"),
    "pickle": (lambda: {"architecture": b"\x80\x04pickle"}, "architecture: expected JSON"),
    "deep": (lambda: {"architecture": GARBAGE["deep"]}, "architecture: expected JSON"),
    "NaN": (lambda: {"weights": all_weights(np.nan)}, "they hold NaN"),
    "random weights": (lambda: {"weights": random.Random(2).randbytes(len(all_weights(0)))}, "header length"),
    "no weights": (lambda: {"blobs": {"architecture": SMALL}}, "expected a blob 'weights'"),
    "huge blobs": (lambda: {"blobs": dict.fromkeys(("architecture", "weights"), HUGE)}, "architecture: expected at"),
    "more weights": (lambda: {"weights": all_weights(0) + bytes(10_000)}, "bytes. Announced: "),
    "no variables": (lambda: {"variables": ()}, "weights: expected 0 to"),
    "vast variables": (lambda: {"variables": (VAST,)}, "expected at most 200000000 parameters"),
    "odd variables": (lambda: {"variables": (ODD,)}, "expected a dtype of"),
    "another task": (lambda: {"task": "supervised"}, "its task and features are not"),
    "other features": (lambda: {"features": ("x", "y")}, "its task and features are not"),
    "another stage": (lambda: {"stage": "elsewhere"}, "Invalid enum value 'elsewhere'"),
}


@pytest.fixture
def forger(memory_url, watch):
    return Forger(watch(memory_url))


def test_a_predictor_keeps_its_model_when_the_new_one_is_an_attack(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    seen.client.transport.subscribe("score/p")
    x = readings(3, 8)
    with Predictor("p", settings=settings):
        for name, (attack, reason) in ATTACKS.items():
            good = forger.publish("production")
            seen.status("p", lambda s, v=good.version: s.version == v, role="predictor")
            seen.listens("p", "predictor")
            forger.publish("production", **attack())
            seen.status("p", lambda s, r=reason, v=good.version: r in s.last_error and s.version == v, role="predictor")
            before = len(scores_of(seen.client, "score/p"))
            feed(seen.client, "p", x)
            seen.client.wait(lambda b=before: len(scores_of(seen.client, "score/p")) > b, name)
            scores = scores_of(seen.client, "score/p")[-1]
            assert scores.version == good.version, name
            np.testing.assert_allclose(scores.scores, forger.model.scores(x), rtol=1e-5)


def test_a_trainer_keeps_its_model_when_the_new_one_is_an_attack(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    with trainers(settings, ["a"]):
        for number, (attack, reason) in enumerate(ATTACKS.values(), start=1):
            good = forger.publish("global")
            seen.status("a", lambda s, v=good.version: s.version == v)
            forger.publish("global", **attack())
            seen.status("a", lambda s, r=reason, v=good.version: r in s.last_error and s.version == v)
            announced = Round(generation=10, round=number, phase="open", base=good.version)
            seen.client.transport.publish(seen.topics.round, msgspec.json.encode(announced), retain=True)
            seen.offer("a", lambda o, n=number: o.round == n)


def test_blobs_that_are_missing_are_fetched_when_they_come_at_last(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    with trainers(settings, ["a"]), Predictor("p", settings=settings):
        for stage, node, role in (("global", "a", "trainer"), ("production", "p", "predictor")):
            late = forger.publish(stage, leave_out=("weights",))
            seen.status(node, lambda s: s.state == "fetching", role)
            weights = late.blobs["weights"]
            for index in range(chunk_count(weights.bytes, 1000)):
                topic = seen.topics.blob(weights.sha256, index)
                data = chunk(encode(forger.model.get_weights()), index, 1000)
                seen.client.transport.publish(topic, data, retain=True)
            seen.status(node, lambda s, v=late.version: s.version == v, role)
            for index in range(chunk_count(weights.bytes, 1000)):
                seen.client.transport.publish(seen.topics.blob(weights.sha256, index), b"", retain=True)


def test_a_chunk_that_somebody_replaced_is_refused_until_it_is_right_again(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    weights = encode(forger.model.get_weights())
    topic = seen.topics.blob(sha256(weights), 0)
    forger.publish("production", leave_out=("weights",))
    seen.client.transport.publish(topic, bytes(1000), retain=True)
    for index in range(1, chunk_count(len(weights), 1000)):
        seen.client.transport.publish(
            seen.topics.blob(sha256(weights), index), chunk(weights, index, 1000), retain=True
        )
    with Predictor("p", settings=settings):
        seen.status("p", lambda s: "its content has another hash" in s.last_error, role="predictor")
        seen.client.transport.publish(topic, b"too short", retain=True)
        seen.status("p", lambda s: "expected 1000 bytes. Received: 9" in s.last_error, role="predictor")
        seen.client.transport.publish(topic, chunk(weights, 0, 1000), retain=True)
        seen.status("p", lambda s: s.number == 1, role="predictor")


def test_an_older_serial_or_generation_is_not_followed_and_a_newer_one_is(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url), forger.seen
    with trainers(settings, ["a"]), Predictor("p", settings=settings):
        for stage, node, role in (("global", "a", "trainer"), ("production", "p", "predictor")):
            held = forger.publish(stage, generation=10, serial=50)
            seen.status(node, lambda s, v=held.version: s.version == v, role)
            forger.publish(stage, generation=10, serial=49)
            forger.publish(stage, generation=9, serial=99)
            forger.publish(stage, generation=10, serial=50)
            newer = forger.publish(stage, generation=11, serial=1)
            seen.status(node, lambda s, v=newer.version: s.version == v, role)
            versions = [s.version for s in seen.seen(seen.topics.status(node, role), NodeStatus) if s.version]
            assert list(dict.fromkeys(versions)) == [held.version, newer.version]


def test_a_model_that_does_not_fit_poisons_no_serial(memory_url, new_settings, forger):
    """A stranger's manifest with the highest serial there is must not make nodes deaf to the manager."""
    settings, seen = new_settings(memory_url), forger.seen
    with trainers(settings, ["a"]):
        forger.publish("global", generation=2**53, serial=2**53, architecture=with_a_lambda())
        seen.status("a", lambda s: "Lambda" in s.last_error)
        forger.publish(
            "global",
            generation=2**53,
            serial=2**53 - 1,
            leave_out=("weights", "architecture"),
            architecture=description_of_another(),
        )
        seen.status("a", lambda s: s.state == "fetching")
        real = forger.publish("global")
        seen.status("a", lambda s: s.version == real.version)


def description_of_another():
    return FederatedModel.from_core(core(hidden=(3,)), scaler=SCALER).architecture


def test_another_lineage_is_followed_with_its_own_readings(memory_url, new_settings, forger):
    """Other features: the parser, the window and the spool change with the model."""
    settings, seen = new_settings(memory_url), forger.seen
    four = FederatedModel.from_core(core(n_features=4, hidden=(3,)), features=("a", "b", "c", "d"))
    with Trainer("a", settings=settings) as trainer, Predictor("p", settings=settings):
        first = [forger.publish(stage) for stage in ("global", "production")]
        seen.status("a", lambda s: s.version == first[0].version)
        seen.listens("a")
        feed(seen.client, "a", readings(1, 64))
        seen.status("a", lambda s: s.window == 64)
        forger.model = four
        for stage, node, role in (("global", "a", "trainer"), ("production", "p", "predictor")):
            other = forger.publish(stage, features=four.features)
            seen.status(node, lambda s, v=other.version: s.version == v, role)
            seen.listens(node, role)
            feed(seen.client, node, readings(2, 64)[:, :4])
            feed(seen.client, node, readings(2, 32))  # of the old kind
            seen.status(node, lambda s: s.readings.malformed == 1 and s.readings.received >= 64, role)
    assert trainer._held.window.features == 4
    assert trainer._held.window.total == 64


def test_a_trainer_with_fixed_readings_says_that_a_model_of_other_features_is_none_for_it(
    memory_url, new_settings, forger
):
    settings, seen = new_settings(memory_url), forger.seen
    forger.model = FederatedModel.from_core(core(n_features=4, hidden=(3,)))
    with trainers(settings, ["a"]):
        forger.publish("global")
        seen.status("a", lambda s: "model: expected 6 features, as the readings have. Received: 4" in s.last_error)


def test_a_configuration_that_names_other_features_is_told(memory_url, new_settings, forger):
    settings, seen = new_settings(memory_url, readings__features=("a", "b")), forger.seen
    with Predictor("p", settings=settings):
        forger.publish("production")
        status = seen.status("p", lambda s: s.last_error, role="predictor")
        assert "readings.features: expected 6 names, as the model's. Received: 2" in status.last_error
