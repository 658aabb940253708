"""Words in live streams: nodes count them, the manager lists them, and every node and predictor encodes alike."""

import msgspec
import numpy as np
import pytest

from brokers import Connect
from dl_mqtt_clients.data.categories import category_code
from dl_mqtt_clients.learning.builders import build_core
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.learning.vocabularies import Categorical
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.feature_sums import UNUSED, CategorySums
from dl_mqtt_clients.wire.messages import Command, Manifest
from service_helpers import command, scores_of, start_manager

NODES = ("a", "b", "c")
NAMES = ("bytes", "protocol", "count")
BY = Categorical((1,), size=4)
RULES = {
    "rounds__target_updates": 3, "rounds__min_updates": 3, "scaling__federated": True, "scaling__deadline_s": 20.0,
    "readings__holdout": 0.0, "vocabulary__min_count": 10, "vocabulary__min_nodes": 2, "training__min_readings": 100,
    "training__min_new_readings": 1, "promotion__gate": False,
}  # fmt: skip


def manager_of(settings, **changes):
    return start_manager(
        settings,
        model=build_core(n_features=BY.width(3), hidden=(4,), seed=1),
        features=NAMES,
        scaler=ScalerValues.identity(3, categorical=BY),
        **changes,
    )


def send(client, node, words, *, rows=128):
    """A stream as a sensor speaks: an object a reading, its protocol one of these words in turn."""
    rng = np.random.default_rng(ord(node[-1]))
    data = [
        {"bytes": float(b), "protocol": words[i % len(words)], "count": float(i % 7)}
        for i, b in enumerate(rng.normal(100, 20, size=rows))
    ]
    client.transport.publish(f"reading/{node}", msgspec.json.encode({"data": data}))


def codes_of(manager):
    return manager.versions.weights[2]


def listed(*words):
    return sorted(category_code(word) for word in words)


@pytest.fixture(params=["memory_url", "shared_mosquitto_url"])
def url(request):
    return request.getfixturevalue(request.param)


def test_words_of_live_streams_become_a_vocabulary_that_all_learn_and_score_with(url, new_settings, watch):
    """`alice` is frequent on one node alone, and `smtp` is rare: neither is told to the others."""
    settings = new_settings(url, **RULES)
    seen = watch(url)
    seen.client.transport.subscribe("score/p")
    streams = {"a": ["tcp", "udp", "alice"], "b": ["tcp", "udp", "icmp"], "c": ["tcp", "icmp", *["udp"] * 20, "smtp"]}
    trainers = [Trainer(node, settings=settings) for node in NODES]
    manager, predictor = manager_of(settings, rounds=2), Predictor("p", settings=settings)
    with trainers[0], trainers[1], trainers[2], predictor, manager:
        for node, words in streams.items():
            seen.listens(node)
            send(seen.client, node, words)
        for node in NODES:
            seen.status(node, lambda s: s.readings.received == 128)
        for node, words in streams.items():  # a second round's
            send(seen.client, node, words)
        production = seen.manifest("production", lambda m: m.number == 3)
        seen.status("p", lambda s: s.version == production.version, role="predictor")
        seen.listens("p", "predictor")
        send(seen.client, "p", ["tcp", "never heard of", 7], rows=30)
        seen.client.wait(lambda: scores_of(seen.client, "score/p"))
    assert [r.outcome for r in manager._store.history(10)] == ["rescaled", "merged", "merged"]
    assert codes_of(manager).tolist() == [[*listed("tcp", "udp", "icmp"), UNUSED]]
    assert production.categorical == (1,)
    model = manager.versions._model
    model.set_weights(manager.versions.weights)
    rng = np.random.default_rng(ord("p"))
    values = [category_code("tcp"), category_code("never heard of"), 7.0]
    x = np.stack([rng.normal(100, 20, size=30), [values[i % 3] for i in range(30)], np.arange(30) % 7.0], axis=1)
    np.testing.assert_allclose(scores_of(seen.client, "score/p")[0].scores, model.scores(x), rtol=1e-4)
    assert model.scaled(x)[:3, 2:].argmax(axis=1).tolist() == [codes_of(manager)[0].tolist().index(values[0]), 4, 4]


def test_a_new_word_gets_an_input_by_the_command_rescale_and_opens_a_lineage(
    memory_url, new_settings, watch, connect: Connect
):
    settings = new_settings(memory_url, **RULES)
    seen = watch(memory_url)
    trainers = [Trainer(node, settings=settings) for node in NODES]
    with trainers[0], trainers[1], trainers[2], manager_of(settings, rounds=0) as manager:
        for node in NODES:
            seen.listens(node)
            send(seen.client, node, ["tcp", "udp"])
        first = seen.manifest("global", lambda m: m.number >= 2)
        assert codes_of(manager).tolist() == [[*listed("tcp", "udp"), UNUSED, UNUSED]]
        for node in NODES:
            send(seen.client, node, ["quic", "tcp"])
            seen.status(node, lambda s: s.readings.received == 256)
        assert command(connect, seen, memory_url, Command(command="rescale")).ok
        second = seen.manifest("global", lambda m: m.number > first.number and m.lineage != first.lineage)
        for node in NODES:
            send(seen.client, node, ["quic", "tcp"])
        assert seen.manifest("global", lambda m: m.number > second.number).lineage == second.lineage
        assert codes_of(manager).tolist() == [[*listed("tcp", "udp", "quic"), UNUSED]]
    assert len({m.lineage for m in seen.seen(seen.topics.model("global"), Manifest)}) == 3


def test_a_predictor_without_keras_reads_words_as_well(memory_url, new_settings, watch):
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed (extra edge)")
    settings = new_settings(memory_url, **RULES | {"scaling__federated": False, "model__onnx": True})
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    words = [category_code(word) for word in ("tcp", "udp", "icmp")]
    rng = np.random.default_rng(1)
    x = np.stack([rng.normal(100, 20, size=200), rng.choice(words[:2], size=200), rng.normal(size=200)], axis=1)
    scaler = ScalerValues.standard(x, categorical=BY)
    core = build_core(n_features=BY.width(3), hidden=(4,), seed=1)
    edge = Predictor("p", settings=settings.replace(**{"predictor.runtime": "onnx"}))
    trainers = [Trainer(node, settings=settings, readings=x) for node in NODES]
    manager = start_manager(settings, model=core, features=NAMES, scaler=scaler, rounds=1)
    with trainers[0], trainers[1], trainers[2], edge, manager:
        seen.status("p", lambda s: s.backend == "onnxruntime" and s.number == 1, role="predictor")
        seen.listens("p", "predictor")
        send(seen.client, "p", ["tcp", "udp", "icmp"], rows=3)
        seen.client.wait(lambda: scores_of(seen.client, "score/p"))
    rng = np.random.default_rng(ord("p"))
    sent = np.stack([rng.normal(100, 20, size=3), words, [0.0, 1.0, 2.0]], axis=1)
    model = manager.versions._model
    model.set_weights(manager.versions.weights)
    wanted = model.scores(sent)
    np.testing.assert_allclose(scores_of(seen.client, "score/p")[0].scores, wanted, rtol=1e-4)


@pytest.mark.parametrize(
    ("categories", "reason"),
    [
        ((), "vocabulary: expected 1 features. Received: 0"),
        ((CategorySums(values=(1, 1), counts=(2, 2)),), "vocabulary: expected distinct values"),
        ((CategorySums(values=(1,), counts=(2**40,)),), "vocabulary: expected counts above 0, at most"),
    ],
)
def test_counts_that_cannot_be_are_refused(memory_url, new_settings, watch, categories, reason):
    class Liar(Trainer):
        def _send_features(self, report):
            return super()._send_features(msgspec.structs.replace(report, categories=categories))

    settings = new_settings(memory_url, **RULES)
    seen = watch(memory_url)
    rows = np.ones((200, 3), np.float32)
    with manager_of(settings, rounds=1), Liar("liar", settings=settings, readings=rows):
        status = seen.manager(lambda s: s.refused)
    assert reason in status.last_error
