"""The predictor: every reading gets its score, by the model that is in production then; what is wrong is counted."""

import json
import math

import msgspec
import numpy as np
import pytest

from brokers import Client
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.services import stream as stream_module
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Anomaly, NodeStatus
from service_helpers import SCALER, Forger, core, feed, paused, readings, scores_of, until

NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture
def forger(memory_url, watch):
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    return Forger(seen, features=NAMES)


def ready(seen, version):
    seen.status("p", lambda s: s.version == version, role="predictor")
    seen.listens("p", "predictor")


def scored(seen, count: int, topic="score/p"):
    """The first `count` readings' ids, scores and verdicts, in order."""

    def flat(field):
        return [value for message in scores_of(seen.client, topic) for value in getattr(message, field)]

    seen.client.wait(lambda: len(flat("ids")) >= count, f"{count} scores")
    return flat("ids"), np.array(flat("scores")), flat("verdicts")


def say(client: Client, payload, node="p", qos=0):
    data = payload if isinstance(payload, bytes) else msgspec.json.encode(payload)
    client.transport.publish(f"reading/{node}", data, qos=qos)


def test_all_forms_of_readings_get_the_models_own_scores(memory_url, new_settings, forger):
    seen, x = forger.seen, readings(3, 6)
    manifest = forger.publish("production", threshold=0.5)
    heard = []
    with Predictor("p", settings=new_settings(memory_url), on_scores=heard.append):
        ready(seen, manifest.version)
        rows = x.tolist()
        say(seen.client, {"data": rows[0], "id": "first", "timestamp": 1.5})
        say(seen.client, {"data": rows[1:3], "id": "many"})
        say(seen.client, {"data": dict(zip(NAMES, rows[3], strict=True)), "id": 7})
        shuffled = [dict(reversed(list(zip(NAMES, row, strict=True)))) | {"id": None} for row in rows[4:]]
        say(seen.client, {"data": shuffled})
        ids, scores, verdicts = scored(seen, 6)
    assert ids == ["first", "many/0", "many/1", 7, None, None]
    np.testing.assert_allclose(scores, forger.model.scores(x), rtol=1e-5)
    assert verdicts == (scores > 0.5).tolist()
    message = scores_of(seen.client, "score/p")[0]
    assert (message.node, message.version, message.threshold) == ("p", manifest.version, 0.5)
    assert [i for m in heard for i in m.ids] == ids


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xff\x00", "malformed"),
        (b"", "truncated"),
        (b'{"data": [1, 2, 3]}', "length >= 6"),
        (b'{"data": [1, 2, 3, 4, 5, "six"]}', "Expected `float`, got `str`"),
        (b'{"data": [1, 2, 3, 4, 5, 1e300]}', "within ±2^63"),
        (b'{"nothing": 1}', "missing required field `data`"),
        (b'{"data": {"a": 1}}', "missing required field `b`"),
        (b'{"data": [1, 2, 3, 4, 5, 6], "label": "purple"}', "label: expected"),
        (b"[" * 10_000, "reading"),
        (b'{"data": [' + b"1," * 3_000_000 + b"1]}", "at most"),
    ],
)
def test_a_malformed_reading_is_counted_with_its_reason_and_nothing_else_happens(
    memory_url, new_settings, forger, payload, reason
):
    seen, x = forger.seen, readings(3, 2)
    manifest = forger.publish("production")
    with Predictor("p", settings=new_settings(memory_url)):
        ready(seen, manifest.version)
        say(seen.client, {"data": x[0].tolist(), "id": 1})
        say(seen.client, payload)
        say(seen.client, {"data": x[1].tolist(), "id": 2})
        ids, scores, _ = scored(seen, 2)
        status = seen.status("p", lambda s: s.readings.malformed == 1 and s.scored == 2, role="predictor")
    assert ids == [1, 2]
    np.testing.assert_allclose(scores, forger.model.scores(x), rtol=1e-5)
    assert reason in status.readings.last_error
    assert status.readings.received == 2


@pytest.mark.parametrize(("kind", "qos"), [("memory", 0), ("mosquitto", 1)])
def test_no_reading_is_missed_while_models_change_under_load(
    request, memory_url, new_settings, watch, connect, kind, qos
):
    url = memory_url if kind == "memory" else request.getfixturevalue("shared_mosquitto_url")
    settings = new_settings(url, data_broker__qos=qos, predictor__max_batch=64)
    forger = Forger(watch(url))
    seen = forger.seen
    counter = connect(url, "counter")
    counter.transport.subscribe(f"score/{settings.federation.name}")
    node = settings.federation.name  # on a broker that others use too
    versions = [forger.publish("production")]
    total, every = 3000, 500
    with Predictor(node, settings=settings):
        seen.status(node, lambda s: s.version == versions[0].version, role="predictor")
        seen.listens(node, "predictor")
        x = readings(4, total).tolist()
        for index, row in enumerate(x):
            say(seen.client, {"data": row, "id": index}, node, qos)
            if index % every == every - 1:
                forger.change()
                versions.append(forger.publish("production"))
        counter.wait(lambda: sum(len(m.ids) for m in scores_of(counter, f"score/{node}")) >= total, deadline_s=30)
        seen.status(node, lambda s: s.version == versions[-1].version, role="predictor")
    messages = scores_of(counter, f"score/{node}")
    assert [i for m in messages for i in m.ids] == list(range(total))
    used = list(dict.fromkeys(m.version for m in messages))
    assert len(used) > 1
    order = [v.version for v in versions]
    assert used == sorted(used, key=order.index)


def test_it_starts_from_its_disk_when_nobody_else_is_there(new_settings, watch, memory_url, connect):
    """No federation broker at all; only the node's own data broker."""
    forger = Forger(watch(memory_url))
    manifest = forger.publish("production", threshold=0.7)
    settings = new_settings(memory_url)
    with Predictor("p", settings=settings):
        forger.seen.status("p", lambda s: s.version == manifest.version, role="predictor")
    alone = settings.replace(**{"broker.url": "mqtt://127.0.0.1:9", "data_broker.url": "memory://owndata"})
    client = connect("memory://owndata", "sensor")
    client.transport.subscribe("score/p")
    x = readings(3, 20)
    predictor = Predictor("p", settings=alone)
    with predictor:
        until(lambda: predictor.stream.transport.connected)
        feed(client, "p", x)
        client.wait(lambda: scores_of(client, "score/p"))
    message = scores_of(client, "score/p")[0]
    assert (message.version, message.threshold) == (manifest.version, 0.7)
    np.testing.assert_allclose(message.scores, forger.model.scores(x), rtol=1e-5)


@pytest.mark.parametrize("name", ["production.json", "weights.safetensors", "architecture.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "another"])
def test_a_damaged_model_on_disk_is_no_obstacle(memory_url, new_settings, forger, tmp_path, name, damage):
    settings, seen = new_settings(memory_url), forger.seen
    first = forger.publish("production")
    with Predictor("p", settings=settings):
        seen.status("p", lambda s: s.version == first.version, role="predictor")
    path = tmp_path / "state" / "p" / "predictor" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-7] if damage == "cut" else bytes(reversed(data)))
    with Predictor("p", settings=settings) as predictor:
        newer = forger.publish("production")
        seen.status("p", lambda s: s.version == newer.version, role="predictor")
        if damage != "gone":
            assert "the one on disk" in predictor.last_error


def test_an_older_production_model_that_a_broker_brings_back_is_not_taken_after_a_restart(
    memory_url, new_settings, forger
):
    settings, seen = new_settings(memory_url), forger.seen
    old = forger.publish("production", serial=5)
    new = forger.publish("production", serial=9)
    with Predictor("p", settings=settings):
        seen.status("p", lambda s: s.version == new.version, role="predictor")
    seen.client.transport.publish(seen.topics.model("production"), msgspec.json.encode(old), retain=True)
    with Predictor("p", settings=settings) as again:
        seen.status("p", lambda s: s.instance == again._instance and s.version, role="predictor")
        newest = forger.publish("production", serial=10)
        seen.status("p", lambda s: s.version == newest.version, role="predictor")
    versions = [
        s.version for s in seen.seen(seen.topics.status("p", "predictor"), NodeStatus)
        if s.instance == again._instance and s.version
    ]  # fmt: skip
    assert old.version not in versions


def test_anomalies_are_reported_so_many_a_minute_and_the_others_counted_without_features(
    memory_url, new_settings, forger
):
    settings = new_settings(memory_url, predictor__anomalies_per_minute=3, predictor__max_batch=1)
    seen = forger.seen
    manifest = forger.publish("production", threshold=1e-9)
    x = readings(3, 10)
    with Predictor("p", settings=settings) as predictor:
        ready(seen, manifest.version)
        for index, row in enumerate(x.tolist()):
            say(seen.client, {"data": row, "id": f"r{index}", "timestamp": 17.25})
        seen.status("p", lambda s: s.anomalies == 10, role="predictor")
        anomalies = seen.seen(seen.topics.anomaly("p"), Anomaly)
        assert [(a.id, a.suppressed, a.timestamp) for a in anomalies] == [(f"r{i}", 0, 17.25) for i in range(3)]
        predictor._sent_at.clear()  # a minute later
        say(seen.client, {"data": x[0].tolist(), "id": "later"})
        late = seen.wait(seen.topics.anomaly("p"), Anomaly, lambda a: a.id == "later")
    assert late.suppressed == 7
    np.testing.assert_allclose(late.score, forger.model.scores(x[:1])[0], rtol=1e-5)
    for delivery in seen.client.messages:
        if delivery.topic == seen.topics.anomaly("p"):
            assert set(json.loads(delivery.payload)) <= {
                "v", "id", "score", "threshold", "version", "number", "suppressed", "timestamp",
            }  # fmt: skip


def test_more_than_the_queue_holds_drops_the_oldest_and_counts_them(memory_url, new_settings, forger, monkeypatch):
    settings = new_settings(memory_url, readings__buffer=100, training__min_readings=50)
    seen = forger.seen
    manifest = forger.publish("production")
    with Predictor("p", settings=settings) as predictor:
        ready(seen, manifest.version)
        with paused(predictor):
            for index in range(250):
                say(seen.client, {"data": [1, 2, 3, 4, 5, 6], "id": index})
            until(lambda: predictor.stream._dropped == 150)
        status = seen.status("p", lambda s: s.scored == 100, role="predictor")
        assert status.readings.dropped == 150
        ids, _, _ = scored(seen, 100)
        assert ids == list(range(150, 250))


def test_large_messages_do_not_eat_the_memory(memory_url, new_settings, forger, monkeypatch):
    monkeypatch.setattr(stream_module, "WAITING_BYTES", 10_000)
    seen = forger.seen
    manifest = forger.publish("production")
    with Predictor("p", settings=new_settings(memory_url)) as predictor:
        ready(seen, manifest.version)
        with paused(predictor):
            for _ in range(50):
                say(seen.client, b"x" * 1000)
            until(lambda: predictor.stream._dropped == 40)
            assert predictor.stream._bytes <= 10_000
        seen.status("p", lambda s: s.readings.malformed >= 10, role="predictor")


def test_scores_beyond_what_json_can_say_are_the_largest_number_and_anomalous(memory_url, new_settings, forger):
    seen = forger.seen
    manifest = forger.publish("production", threshold=1.0)
    with Predictor("p", settings=new_settings(memory_url)):
        ready(seen, manifest.version)
        say(seen.client, {"data": [0, 0, 1e18, 0, 0, 0], "id": 1})
        say(seen.client, {"data": [0, 0, 9e18, 0, 0, 9e18], "id": 2})
        _, scores, verdicts = scored(seen, 2)
    assert all(math.isfinite(s) and s > 1e30 for s in scores)
    assert verdicts == [True, True]


def test_a_predictor_of_a_supervised_model_publishes_outputs(memory_url, new_settings, watch):
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    forger = Forger(seen)
    forger.model = FederatedModel.from_core(
        core(task="supervised", classes=3, loss="sparse_categorical_crossentropy"), task="supervised", scaler=SCALER
    )
    manifest = forger.publish("production", task="supervised")
    x = readings(3, 5)
    with Predictor("p", settings=new_settings(memory_url, federation__task="supervised")):
        ready(seen, manifest.version)
        feed(seen.client, "p", x)
        scored(seen, 5)
    message = scores_of(seen.client, "score/p")[0]
    assert np.shape(message.outputs) == (5, 3)
    np.testing.assert_allclose(np.sum(message.outputs, axis=1), 1.0, rtol=1e-5)


def test_a_handler_of_the_users_that_fails_costs_no_reading(memory_url, new_settings, forger):
    seen = forger.seen
    manifest = forger.publish("production")

    def fail(_scores):
        raise ValueError("mine")

    with Predictor("p", settings=new_settings(memory_url, predictor__max_batch=1), on_scores=fail):
        ready(seen, manifest.version)
        for index in range(20):
            say(seen.client, {"data": [1, 2, 3, 4, 5, 6], "id": index})
        ids, _, _ = scored(seen, 20)
        assert ids == list(range(20))
        seen.status("p", lambda s: "ValueError: mine" in s.last_error, role="predictor")


def test_readings_that_waited_for_a_first_model_are_scored_when_it_comes(memory_url, new_settings, forger):
    seen = forger.seen
    with Predictor("p", settings=new_settings(memory_url)):
        seen.listens("p", "predictor")
        feed(seen.client, "p", readings(3, 40))
        forger.publish("production")
        scored(seen, 40)


def test_stopping_scores_what_has_arrived(memory_url, new_settings, forger):
    seen = forger.seen
    manifest = forger.publish("production")
    predictor = Predictor("p", settings=new_settings(memory_url, predictor__max_wait_ms=60_000.0))
    with predictor:
        ready(seen, manifest.version)
        feed(seen.client, "p", readings(3, 40))
        until(lambda: len(predictor.stream))
    scored(seen, 40)
