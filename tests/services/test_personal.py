"""Personal variables: trained on each node, kept there over restarts, scored with there, and never sent."""

import json

import numpy as np
import pytest

from dl_mqtt_clients.errors import ConfigurationError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.services import own_values
from dl_mqtt_clients.services.offering import Offering
from dl_mqtt_clients.services.own_values import PERSONAL, OwnValues, personal_positions
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Manifest
from dl_mqtt_clients.wire.weights import encode, key, update_positions
from service_helpers import feed, readings, scores_of, start_manager, trainers, until

LAST_LAYER = {
    "rounds__target_updates": 2,
    "rounds__min_updates": 2,
    "rounds__strategy": "FedAvg",
    "model__personal": ("*/output/*",),
}
NODES = ("a", "b")


def own_of(tmp_path, node, manifest):
    """This node's personal values, from its disk."""
    positions = personal_positions(manifest)
    return OwnValues(tmp_path / "state" / node / "trainer").read(PERSONAL, manifest, manifest.variables, positions)


def scored_by_trainer(tmp_path, manager, node, x):
    """Scores of the version in production with what this node keeps."""
    production = manager.versions.production
    model = rebuild(manager._store.blob(production.blobs["architecture"].sha256))
    model.take_roles(production.variables)
    own = OwnValues(tmp_path / "state" / node / "trainer")
    model.set_weights(own.put_into(manager.versions._weights_of(production), production))
    return model.scores(x)


def tensors(payload):
    """Keys of a safetensors file."""
    length = int.from_bytes(payload[:8], "little")
    return set(json.loads(bytes(payload[8 : 8 + length])))


def test_a_personal_layer_stays_on_its_node_and_both_roles_of_the_node_use_it(
    shared_mosquitto_url, new_settings, watch, tmp_path
):
    settings = new_settings(shared_mosquitto_url, **LAST_LAYER)
    seen = watch(shared_mosquitto_url)
    for node in NODES:
        seen.client.transport.subscribe(f"score/{node}")
    x = readings(5, 64)
    with trainers(settings, NODES), Predictor("a", settings=settings), Predictor("b", settings=settings):
        manager = start_manager(settings, rounds=3).run()
        version = manager.versions.production.version
        for node in NODES:
            seen.status(node, lambda s: s.version == version, role="predictor")
            seen.listens(node, "predictor")
            feed(seen.client, node, x)
        seen.client.wait(
            lambda: all(sum(len(m.ids) for m in scores_of(seen.client, f"score/{n}")) == len(x) for n in NODES),
            "all scores",
        )
    manifest = manager.versions.current
    personal = personal_positions(manifest)
    assert [manifest.variables[p].path.rpartition("/")[2] for p in personal] == ["kernel", "bias"]

    own = {node: own_of(tmp_path, node, manifest) for node in NODES}
    assert not np.allclose(own["a"][0], own["b"][0])
    scores = {n: np.concatenate([m.scores for m in scores_of(seen.client, f"score/{n}")]) for n in NODES}
    for node in NODES:
        np.testing.assert_allclose(scores[node], scored_by_trainer(tmp_path, manager, node, x), rtol=1e-5)
    assert not np.allclose(scores["a"], scores["b"])

    updates = [d for d in seen.client.messages if d.payload and "/trainer/update/" in d.topic]
    assert len(updates) >= 3 * len(NODES)
    assert {k for d in updates for k in tensors(d.payload)} == {key(p) for p in update_positions(manifest.variables)}
    everything = b"".join(bytes(d.payload) for d in seen.client.messages)
    for node in NODES:
        assert own[node][0].tobytes() not in everything
    first = seen.seen(seen.topics.model("global"), Manifest)[0]
    before = manager.versions._weights_of(first)
    for position in personal:  # the version's are those it began with
        np.testing.assert_array_equal(manager.versions.weights[position], before[position])


def test_after_a_restart_of_all_the_personal_values_are_still_there(memory_url, new_settings, tmp_path):
    def federate(folder, *, rounds):
        settings = new_settings(memory_url, node__state_dir=str(tmp_path / folder), **LAST_LAYER)
        settings = settings.replace(**{"federation.name": folder})
        with trainers(settings, NODES):
            return start_manager(settings, rounds=rounds).run().versions.current.version

    whole = federate("whole", rounds=3)
    federate("apart", rounds=2)
    assert federate("apart", rounds=3) == whole
    for file in (tmp_path / "apart" / "a" / "trainer").rglob("personal.safetensors"):
        file.unlink()
    assert federate("apart", rounds=4) != federate("whole", rounds=4)


def test_who_missed_its_receipt_asks_for_it_when_the_round_is_over(memory_url, new_settings, tmp_path, monkeypatch):
    settings = new_settings(memory_url, **LAST_LAYER)
    with trainers(settings, NODES):
        undisturbed = start_manager(settings, rounds=3).run().versions.current.version

    settings = settings.replace(**{"node.state_dir": str(tmp_path / "disturbed")})
    original, lost = Offering.replied, []

    def lossy(self, reply):
        if reply.kind == "receipt" and self._node == "a" and len(lost) < 1:
            lost.append(reply.round)
        else:
            original(self, reply)

    monkeypatch.setattr(Offering, "replied", lossy)
    with trainers(settings, NODES):
        manager = start_manager(settings, rounds=3).run()
    assert lost == [1]
    assert manager.versions.current.version == undisturbed


def test_a_predictor_takes_newer_personal_values_when_its_trainer_has_some(
    memory_url, new_settings, watch, tmp_path, monkeypatch
):
    monkeypatch.setattr(own_values, "LOOK_EVERY_S", 0.0)
    settings = new_settings(memory_url, **LAST_LAYER)
    seen = watch(memory_url)
    seen.client.transport.subscribe("score/a")
    with trainers(settings, NODES), Predictor("a", settings=settings) as predictor:
        manager = start_manager(settings, rounds=1).run()
        seen.status("a", lambda s: s.version == manager.versions.production.version, role="predictor")
        until(lambda: predictor.state == "scoring")
        manifest = manager.versions.production
        positions = personal_positions(manifest)
        newer = [np.full(manifest.variables[p].shape, 0.25, np.float32) for p in positions]
        own = OwnValues(tmp_path / "state" / "a" / "trainer")
        own.set_aside(
            "f" * 64,
            generation=manifest.generation,
            lineage=manifest.lineage,
            values={PERSONAL: encode(newer, positions)},
        )
        own.adopt("f" * 64)
        feed(seen.client, "a", readings(5, 32))
        seen.client.wait(lambda: scores_of(seen.client, "score/a"), "scores")
    found = scores_of(seen.client, "score/a")[0].scores
    np.testing.assert_allclose(found, scored_by_trainer(tmp_path, manager, "a", readings(5, 32)), rtol=1e-5)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("*/no_such/*",), r"model\.personal: expected a pattern of .*output/kernel"),
        (("*",), r"model\.personal: expected something left to share"),
    ],
)
def test_patterns_that_cannot_be_are_told_at_the_start(memory_url, new_settings, patterns, message):
    with pytest.raises(ConfigurationError, match=message):
        start_manager(new_settings(memory_url, model__personal=patterns))


def test_what_is_personal_does_not_change_within_a_generation(memory_url, new_settings):
    settings = new_settings(memory_url, **LAST_LAYER)
    with trainers(settings, NODES):
        start_manager(settings, rounds=1).run()
    other = settings.replace(**{"model.personal": ("*/hidden_1/*",)})
    with pytest.raises(ConfigurationError, match=r"model\.personal: expected the personal that .*--fresh"):
        start_manager(other)


# ---- the files ----


@pytest.fixture(name="manifest")
def with_a_personal_layer(memory_url, new_settings):
    manager = start_manager(new_settings(memory_url, **LAST_LAYER))
    manager._exit.close()
    return manager.versions.current


def values(manifest, value):
    positions = personal_positions(manifest)
    return {PERSONAL: encode([np.full(manifest.variables[p].shape, value, np.float32) for p in positions], positions)}


def read(own, manifest):
    found = own.read(PERSONAL, manifest, manifest.variables, personal_positions(manifest))
    return None if found is None else float(found[0].reshape(-1)[0])


def test_values_count_once_their_update_does(tmp_path, manifest):
    own, names = OwnValues(tmp_path), {"generation": manifest.generation, "lineage": manifest.lineage}
    own.set_aside("1" * 64, **names, values=values(manifest, 1.0))
    assert read(own, manifest) is None
    own.adopt("1" * 64)
    assert read(own, manifest) == 1.0
    own.set_aside("2" * 64, **names, values=values(manifest, 2.0))  # refused
    own.set_aside("3" * 64, **names, values=values(manifest, 3.0))
    assert not own.is_set_aside("2" * 64)
    own.adopt("2" * 64)
    own.adopt("1" * 64)  # its receipt again
    assert read(own, manifest) == 1.0
    OwnValues(tmp_path).adopt("3" * 64)
    assert read(own, manifest) == 3.0
    assert not own.is_set_aside("3" * 64)


def test_values_of_another_lineage_are_forgotten_when_a_new_one_counts(tmp_path, manifest):
    own = OwnValues(tmp_path)
    for update, lineage in (("1", "e" * 64), ("2", manifest.lineage)):
        own.set_aside(update, generation=manifest.generation, lineage=lineage, values=values(manifest, 1.0))
        own.adopt(update)
    assert len(list((tmp_path / "own").iterdir())) == 1
    assert read(own, manifest) == 1.0


@pytest.mark.parametrize("wrong", ["nan", "large", "other shapes", "garbage", "empty"])
def test_a_file_that_is_not_right_counts_as_none(tmp_path, manifest, wrong):
    positions = personal_positions(manifest)
    data = {
        "nan": lambda: values(manifest, np.nan)[PERSONAL],
        "large": lambda: bytes(10_000_000),
        "other shapes": lambda: encode([np.zeros((1,), np.float32) for _ in positions], positions),
        "garbage": lambda: b"\xff" * 40,
        "empty": lambda: b"",
    }[wrong]()
    own = OwnValues(tmp_path)
    own.set_aside("1", generation=manifest.generation, lineage=manifest.lineage, values={PERSONAL: data})
    own.adopt("1")
    weights = [np.zeros(v.shape, np.float32) for v in manifest.variables]
    assert all(a is b for a, b in zip(own.put_into(weights, manifest), weights, strict=True))
