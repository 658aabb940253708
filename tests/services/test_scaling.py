"""A scaler that the nodes agree on: equal to the one of all their readings together, and the first of a new lineage."""

import msgspec
import numpy as np
import pytest

from brokers import Connect
from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Command, Manifest, Round
from service_helpers import Watch, command, core, readings, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3, "readings__holdout": 0.0}
FEDERATED = {**ALL, "scaling__federated": True, "promotion__gate": False}


def scaler_of(manager) -> tuple:
    return tuple(
        w for w, v in zip(manager.versions.weights, manager.versions.variables, strict=True) if v.role == "scaler"
    )


@pytest.mark.parametrize("broker", ["memory_url", "shared_mosquitto_url", "shared_embedded_url"])
def test_the_federated_scaler_equals_the_pooled_one(request, new_settings, broker):
    settings = new_settings(request.getfixturevalue(broker), **FEDERATED)
    with trainers(settings), start_manager(settings, rounds=2, scaler=None) as manager:
        assert manager.wait(60)
    pooled = ScalerValues.standard(np.concatenate([readings(ord(n)) for n in "abc"]))
    offset, scale = scaler_of(manager)
    np.testing.assert_allclose(offset, pooled.offset, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scale, pooled.scale, rtol=1e-6)
    reports = [(r.outcome, r.number) for r in manager._store.history(10)]
    assert reports == [("rescaled", 1), ("merged", 2), ("merged", 3)]


def test_fewer_nodes_than_agreed_get_no_scaler_and_the_status_says_what_is_waited_for(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **FEDERATED, scaling__deadline_s=0.1)
    seen = watch(memory_url)
    with trainers(settings, ["a", "b"]), start_manager(settings, rounds=1, scaler=None) as manager:
        seen.manager(lambda s: s.state == "scaling" and s.detail == "agreeing on a scaler: 2 of at least 3 nodes")
        assert seen.announced(lambda r: r.phase == "scaling").base == manager.versions.current.version
        with trainers(settings, ["c"]):
            assert manager.wait(60)
    assert manager.versions.current.number == 2


def test_a_manager_killed_while_agreeing_begins_to_agree_again(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **FEDERATED)
    seen = watch(memory_url)
    with start_manager(settings, rounds=1, scaler=None) as first:
        seen.announced(lambda r: r.phase == "scaling")
        first.stop()
        first.wait(20)
    with trainers(settings), start_manager(settings, rounds=1, scaler=None) as again:
        assert again.wait(60)
    assert [r.outcome for r in again._store.history(10)] == ["rescaled", "merged"]
    with start_manager(settings, rounds=1, scaler=None) as third:  # agreed: not again, and no other scaler
        assert third.wait(20)
    assert third.versions.current == again.versions.current


def test_a_new_scaler_by_command_opens_a_lineage_that_must_pass_the_gate_again(
    memory_url, new_settings, watch, connect: Connect
):
    settings = new_settings(memory_url, **{**ALL, "readings__holdout": 0.1, "promotion__gate": True})
    seen: Watch = watch(memory_url)
    with trainers(settings), Predictor("p", settings=settings), start_manager(settings, rounds=0) as manager:
        before = seen.manifest("production", lambda m: m.number >= 1)
        answer = command(connect, seen, memory_url, Command(command="rescale"))
        assert answer.ok, answer.message
        opened = seen.manifest("global", lambda m: m.lineage != before.lineage)
        promoted = seen.manifest("production", lambda m: m.lineage == opened.lineage)
        assert promoted.number > opened.number  # not the untrained one
        manager.stop()
        manager.wait(20)
    assert opened.best is None
    assert len({r.lineage for r in seen.seen(seen.topics.model("global"), Manifest)}) == 2
    assert any(r.phase == "scaling" for r in seen.seen(seen.topics.round, Round))


def test_sums_that_cannot_be_are_refused_and_counted(memory_url, new_settings, watch):
    class Liar(Trainer):
        def _send_features(self, report):
            worse = msgspec.structs.replace(report.features[0], m2=float("1e300"), count=2**40)
            return super()._send_features(msgspec.structs.replace(report, features=(worse, *report.features[1:])))

    settings = new_settings(memory_url, **FEDERATED)
    seen = watch(memory_url)
    with start_manager(settings, rounds=1, scaler=None), Liar("liar", settings=settings, readings=readings(7)):
        status = seen.manager(lambda s: s.refused)
    assert "feature 0" in status.last_error


def test_sums_of_no_reading_are_no_contribution(memory_url, new_settings, watch):
    class Empty(Trainer):
        def _send_features(self, report):
            nothing = FeatureStatistics.empty(len(report.features)).to_message()
            return super()._send_features(msgspec.structs.replace(report, readings=0, features=nothing))

    settings = new_settings(memory_url, **FEDERATED)
    seen = watch(memory_url)
    with trainers(settings, ["a", "b"]), start_manager(settings, rounds=1, scaler=None) as manager:
        with Empty("empty", settings=settings, readings=readings(7)):
            status = seen.manager(lambda s: s.refused)
        assert "expected at least one finite value" in status.last_error
        with trainers(settings, ["c"]):
            assert manager.wait(60)
    assert manager.versions.current.number == 2


def test_a_model_of_its_own_scaler_is_not_another_one_after_agreeing(memory_url, new_settings):
    settings = new_settings(memory_url, **FEDERATED)
    with trainers(settings), start_manager(settings, rounds=1, scaler=None) as manager:
        assert manager.wait(60)
    again = start_manager(settings, rounds=1, scaler=None, model=core())
    assert again.versions.current == manager.versions.current
    again._exit.close()
