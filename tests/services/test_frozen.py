"""What no round changes is a blob of its own: only adapters and head travel, up and down, and the rest once."""

from collections import Counter
from functools import cache

import keras
import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.services.fetch import Fetcher, check_sizes
from dl_mqtt_clients.services.manager import Manager
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Manifest, Offer
from dl_mqtt_clients.wire.weights import nbytes, update_positions
from service_helpers import core, feed, make_settings, scores_of, start_manager
from transformer import freeze, node_data, transformer

NODES = ("a", "b")
ADAPTED = {
    "federation__task": "supervised",
    "rounds__target_updates": 2,
    "rounds__min_updates": 2,
    "rounds__strategy": "FedAvg",
    "training__batch_size": 16,
    "training__epochs": 2,
    "promotion__gate": False,  # every version goes to the predictor too
    "transfer__chunk_bytes": 4096,
}


@cache
def adapted():
    """One for all: Keras counts the names of layers, and another name is another model."""
    keras.utils.set_random_seed(1)
    model = transformer()
    freeze(model)
    return model


@pytest.fixture
def chunks_received(monkeypatch):
    """How often a node received each chunk, by the node's fetcher and topic."""
    received, original = Counter(), Fetcher.receive

    def count(self, delivery):
        taken = original(self, delivery)
        if taken and delivery.payload:
            received[id(self), delivery.topic] += 1
        return taken

    monkeypatch.setattr(Fetcher, "receive", count)
    return received


def federate(settings, seen, rounds):
    data = node_data(np.random.default_rng(0))
    with (
        Trainer("a", settings=settings, readings=data[0][0], labels=data[0][1]) as a,
        Trainer("b", settings=settings, readings=data[1][0], labels=data[1][1]) as b,
        Predictor("p", settings=settings) as p,
    ):
        reports = []
        manager = Manager(adapted(), settings=settings, rounds=rounds, on_round=reports.append).run()
        production = manager.versions.production
        seen.status("p", lambda s: s.version == production.version, role="predictor")
        x = data[0][0][:32]
        seen.listens("p", "predictor")
        before = len(scores_of(seen.client, "score/p"))
        feed(seen.client, "p", x)
        seen.client.wait(lambda: len(scores_of(seen.client, "score/p")) > before, "scores")
        scores = scores_of(seen.client, "score/p")[before].scores
    manager.versions._model.set_weights(manager.versions._weights_of(production))
    np.testing.assert_allclose(scores, manager.versions._model.scores(x), rtol=1e-5)
    return manager, reports, [node.fetcher for node in (a, b, p)]


def test_a_large_model_with_adapters_exchanges_them_alone(shared_mosquitto_url, new_settings, watch, chunks_received):
    settings = new_settings(shared_mosquitto_url, **ADAPTED)
    seen = watch(shared_mosquitto_url)
    seen.client.transport.subscribe("score/p")
    manager, reports, fetchers = federate(settings, seen, 4)
    assert reports[-1].metrics.loss < reports[0].metrics.loss

    manifests = {m.number: m for m in seen.seen(seen.topics.model("global"), Manifest)}
    assert sorted(manifests) == [0, 1, 2, 3, 4]
    variables = manifests[0].variables
    changing = [variables[p] for p in update_positions(variables)]
    whole, small = nbytes(variables), nbytes(changing)
    assert small * 5 < whole
    header = 100 * len(changing)
    scaler = nbytes([v for v in variables if v.role == "scaler"])
    for manifest in manifests.values():  # every version, the first one too, is adapters, head and scaler alone
        assert small < manifest.blobs["weights"].bytes < small + scaler + header
    assert len({m.blobs["frozen"].sha256 for m in manifests.values()}) == 1
    assert len({m.blobs["weights"].sha256 for m in manifests.values()}) == 5

    frozen = manifests[0].blobs["frozen"]
    assert frozen.bytes > whole - small - scaler
    for fetcher in fetchers:  # fetched once, whatever came later
        for index in range(-(-frozen.bytes // frozen.chunk_bytes)):
            assert chunks_received[id(fetcher), seen.topics.blob(frozen.sha256, index)] == 1
    for node in NODES:
        offers = {o.sha256: o.bytes for o in seen.seen(seen.topics.offer(node), Offer)}
        assert len(offers) >= 4  # a fifth may be on its way already
        assert all(small < size < small + header for size in offers.values())
        sent = {d.topic: len(d.payload) for d in seen.client.messages if f"node/{node}/trainer/update/" in d.topic}
        assert sum(sent.values()) <= len(offers) * (small + header)
    first, last = manager.versions._weights_of(manifests[0]), manager.versions.weights
    moved = {p for p in range(len(variables)) if not np.array_equal(first[p], last[p])}
    assert moved == set(update_positions(variables))


def test_restarted_a_predictor_has_the_rest_on_its_disk(memory_url, new_settings, watch, chunks_received):
    settings = new_settings(memory_url, **ADAPTED)
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/p")
    manager, _, _ = federate(settings, seen, 1)
    frozen = manager.versions.current.blobs["frozen"]
    again, _, fetchers = federate(settings, seen, 2)
    assert again.versions.current.number == 2
    for index in range(-(-frozen.bytes // frozen.chunk_bytes)):
        topic = seen.topics.blob(frozen.sha256, index)
        assert [chunks_received[id(fetcher), topic] for fetcher in fetchers] == [1, 1, 0]


def test_a_restarted_manager_goes_on_with_the_same_rest(memory_url, new_settings, tmp_path):
    def federate(folder, rounds):
        settings = new_settings(memory_url, node__state_dir=str(tmp_path / folder), **ADAPTED)
        settings = settings.replace(**{"federation.name": folder})
        data = node_data(np.random.default_rng(0))
        with (
            Trainer("a", settings=settings, readings=data[0][0], labels=data[0][1]),
            Trainer("b", settings=settings, readings=data[1][0], labels=data[1][1]),
        ):
            return Manager(adapted(), settings=settings, rounds=rounds).run().versions.current

    whole = federate("whole", 2)
    federate("apart", 1)
    again = federate("apart", 2)
    assert (again.version, again.lineage) == (whole.version, whole.lineage)


def test_a_model_without_frozen_parts_is_one_blob(memory_url, new_settings):
    manager = start_manager(new_settings(memory_url))
    manager._exit.close()
    assert set(manager.versions.current.blobs) == {"architecture", "weights"}


def test_another_backbone_is_another_lineage(memory_url, tmp_path):
    lineages = set()
    for seed in (1, 2):
        model = core(seed)
        model.layers[0].trainable = False
        model.compile(optimizer="adam", loss="mse")
        manager = start_manager(make_settings(tmp_path / str(seed), memory_url), model=model)
        manager._exit.close()
        lineages.add(manager.versions.current.lineage)
    assert len(lineages) == 2


@pytest.mark.parametrize("name", ["weights", "frozen"])
def test_sizes_of_both_blobs_are_checked_before_anything_is_allocated(memory_url, new_settings, name):
    manager = Manager(adapted(), settings=new_settings(memory_url, **ADAPTED))
    manager._exit.close()
    manifest = manager.versions.current
    check_sizes(manifest, stage="global", max_parameters=10**6)
    for size in (manifest.blobs[name].bytes * 2, 100):
        wrong = msgspec.structs.replace(manifest.blobs[name], bytes=size)
        with pytest.raises(TransferError, match=rf"{name}: expected \d+ to \d+ bytes"):
            check_sizes(
                msgspec.structs.replace(manifest, blobs={**manifest.blobs, name: wrong}),
                stage="global",
                max_parameters=10**6,
            )
