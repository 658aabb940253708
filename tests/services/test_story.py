"""A federation from the first announcement to the model in production, on every broker."""

import json

import keras
import numpy as np
import pytest

from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Manifest, decode
from service_helpers import SCALER, core, readings, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


@pytest.fixture(params=["memory", "embedded", "mosquitto", "our_mosquitto"])
def any_url(request, memory_url):
    return memory_url if request.param == "memory" else request.getfixturevalue(f"shared_{request.param}_url")


def test_a_federation_learns_the_same_bits_on_every_broker(any_url, new_settings, watch, undisturbed):
    settings = new_settings(any_url, **ALL)
    seen = watch(any_url)
    reports = []
    with trainers(settings), Predictor("p", settings=settings) as predictor:
        manager = start_manager(settings, rounds=3, on_round=reports.append).run()
        seen.status("p", lambda s: s.version == manager.versions.current.version, role="predictor")
    assert manager.versions.current.version == undisturbed
    assert [(r.round, r.attempt, r.outcome) for r in reports] == [(1, 1, "merged"), (2, 1, "merged"), (3, 1, "merged")]
    assert [p.node for p in reports[-1].participants] == ["a", "b", "c"]
    assert reports[-1].metrics.loss < 0.7 * reports[0].metrics.loss
    assert predictor.manifest.threshold > 0


def test_a_version_goes_from_global_to_production_with_a_threshold_of_its_own(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with trainers(settings):
        manager = start_manager(settings, rounds=2).run()
    order = [
        (m.stage, m.number)
        for d in seen.client.messages
        if d.payload and d.topic in (seen.topics.model("global"), seen.topics.model("production"))
        for m in [decode(d.payload, Manifest)]
    ]
    assert list(dict.fromkeys(order)) == [
        ("global", 0), ("production", 0), ("global", 1), ("production", 1), ("global", 2), ("production", 2),
    ]  # fmt: skip
    production = manager.versions.production
    scores = np.concatenate([heldout_scores(manager, node) for node in "abc"])
    share = float((scores < production.threshold).mean())
    assert abs(share - settings.threshold.quantile) < 0.05
    assert production.metrics.holdout_loss == pytest.approx(scores.mean(), rel=1e-3)


def heldout_scores(manager, node):
    window = Trainer(node, settings=manager.settings, readings=readings(ord(node)))._held.window
    model = manager.versions._model
    model.set_weights(manager.versions.weights)
    return model.scores(window.heldout().x)


def test_status_history_models_and_blobs_are_there_for_who_comes_late(any_url, new_settings, watch):
    settings = new_settings(any_url, **ALL)
    seen = watch(any_url)
    with trainers(settings):
        manager = start_manager(settings, rounds=2).run()
    late = seen.retained(any_url)
    topics = seen.topics
    assert json.loads(late[topics.manager_status].payload)["state"] == "finished"
    assert [r["outcome"] for r in json.loads(late[topics.history].payload)["rounds"]] == ["merged", "merged"]
    assert json.loads(late[topics.round].payload)["phase"] == "idle"
    blobs = {topic.split("/")[4] for topic in late if "/blob/" in topic}
    manifests = [decode(late[topics.model(stage)].payload, Manifest) for stage in ("global", "production")]
    assert [m.version for m in manifests] == [manager.versions.current.version] * 2
    named = {blob.sha256 for m in manifests for blob in m.blobs.values()}
    assert named <= blobs
    assert len(blobs) <= 4  # and of the version before, which somebody may still be fetching; no older ones
    for node in "abc":
        assert json.loads(late[topics.status(node, "trainer")].payload)["state"] == "stopped"


def test_the_updated_model_is_written_after_every_version_for_plain_keras(memory_url, new_settings, tmp_path):
    settings = new_settings(memory_url, **ALL)
    folder = tmp_path / "artifacts" / "updated_model"
    facts = []

    def look(_report):
        version = folder / "version.json"
        facts.append(json.loads(version.read_text())["number"] if version.exists() else None)

    with trainers(settings):
        manager = start_manager(settings, rounds=3, on_round=look).run()
    assert facts[1:] == [1, 2]  # when a round closes, the one before was written
    written = json.loads((folder / "version.json").read_text())
    assert (written["number"], written["version"]) == (3, manager.versions.current.version)
    x = readings(5, 50)
    model = keras.saving.load_model(folder / "model.keras")
    ours = manager.versions._model
    ours.set_weights(manager.versions.weights)
    outputs = {k: np.asarray(keras.ops.convert_to_numpy(v)) for k, v in model(x).items()}
    np.testing.assert_allclose(outputs["score"], ours.scores(x), rtol=1e-4)
    assert (outputs["verdict"] == (outputs["score"] > written["threshold"])).all()


def test_a_supervised_federation_learns_labels(memory_url, new_settings):
    settings = new_settings(memory_url, federation__task="supervised", training__epochs=3, rounds__target_updates=2)
    x = readings(1, 1000)
    labels = (SCALER.apply(x)[:, 0] > 0).astype(np.int8)
    model = core(task="supervised")
    with (
        Trainer("a", settings=settings, readings=x[:500], labels=labels[:500]),
        Trainer("b", settings=settings, readings=x[500:], labels=labels[500:]),
    ):
        manager = start_manager(settings, model=model, rounds=4).run()
    final = manager.versions._model
    final.set_weights(manager.versions.weights)
    scores, outputs = final.predict(x)
    assert outputs.shape == (1000, 1)
    assert ((scores > 0.5) == labels).mean() > 0.9
    assert manager.versions.production.metrics.auroc > 0.95


def test_run_ends_after_the_count_and_goes_on_from_there_when_asked_for_more(memory_url, new_settings, undisturbed):
    settings = new_settings(memory_url, **ALL)
    with trainers(settings):
        assert start_manager(settings, rounds=1).run().versions.current.number == 1
        assert start_manager(settings, rounds=1).run().versions.current.number == 1
        assert start_manager(settings, rounds=3).run().versions.current.version == undisturbed
