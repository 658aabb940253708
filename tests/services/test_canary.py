"""A candidate goes to a share of the predictors first; what they raise alarm about decides."""

import json
from contextlib import ExitStack

import pytest

from dl_mqtt_clients.aggregation.promotion import Verdict
from dl_mqtt_clients.services.canary import Alerts, compare, is_canary
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.production import Production
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus
from service_helpers import readings, start_manager, trainers

SHA, OTHER = "a" * 64, "b" * 64
CANDIDATE = Manifest(
    stage="canary", generation=1, serial=1, version=SHA, number=1, round=1, lineage=OTHER, blobs={}, variables=()
)


def counted(version, scored, anomalies):
    return NodeStatus(state="scoring", version=version, version_scored=scored, version_anomalies=anomalies)


@pytest.mark.parametrize(("anomalies", "good"), [(10, True), (60, True), (61, False), (1000, False)])
def test_more_alarms_than_the_others_by_more_than_the_tolerance_is_too_many(anomalies, good):
    statuses = [counted(SHA, 1000, anomalies), counted(OTHER, 400, 4), counted(OTHER, 600, 6)]
    assert compare(CANDIDATE, statuses, tolerance=0.05)[0] is good


def test_without_readings_nothing_speaks_against_it():
    assert compare(CANDIDATE, [counted(SHA, 0, 0), counted(OTHER, 5, 5)], tolerance=0.0)[0]
    assert Alerts.of([]).rate == 0.0


def test_about_the_asked_share_are_canaries_and_others_with_the_next_version():
    nodes = [f"n{i}" for i in range(2000)]
    first, second = ({n for n in nodes if is_canary(n, v, 0.25)} for v in (SHA, OTHER))
    assert 400 < len(first) < 600
    assert first != second


@pytest.mark.parametrize("good", [True, False])
def test_a_candidate_is_tried_by_some_before_all_have_it_or_none(memory_url, new_settings, watch, connect, good):
    settings = new_settings(
        memory_url,
        rounds__target_updates=3,
        rounds__min_updates=3,
        rounds__count=1,
        promotion__gate=True,
        promotion__canary=0.5,
        promotion__canary_s=2.0,
        promotion__canary_tolerance=0.9 if good else 0.0,
        threshold__quantile=0.5,
    )
    seen, sensor = watch(memory_url), connect(memory_url, "sensor")
    nodes = [f"p{i}" for i in range(6)]
    with ExitStack() as stack:
        for node in nodes:
            stack.enter_context(Predictor(node, settings=settings))
            seen.status(node, lambda s: s.state == "waiting", role="predictor")
        stack.enter_context(trainers(settings))
        manager = stack.enter_context(start_manager(settings))
        canary = seen.manifest("canary")
        chosen = {n for n in nodes if is_canary(n, canary.version, 0.5)}
        assert 0 < len(chosen) < len(nodes)
        for node in chosen:
            seen.status(node, lambda s: s.version == canary.version, role="predictor")
        for node in nodes:  # the canaries' readings are unlike any; nobody else's are
            x = readings(3)[:100] * (50.0 if node in chosen else 1.0)
            sensor.transport.publish(f"reading/{node}", json.dumps({"data": x.tolist()}).encode())
        after = seen.manifest("production", lambda m: m.serial > canary.serial)
        assert (after.version == canary.version) is good
        for node in nodes:
            seen.status(node, lambda s: s.version == after.version and s.version_scored >= 0, role="predictor")
        assert manager.wait(30)
    assert seen.retained(memory_url).keys().isdisjoint({seen.topics.model("canary")})


def test_a_manager_that_was_killed_calls_its_canaries_back(memory_url, new_settings):
    settings = new_settings(memory_url, rounds__target_updates=3, rounds__count=1, promotion__gate=False)
    with trainers(settings), start_manager(settings) as manager:
        assert manager.wait(60)
    versions = manager.versions
    before = versions.production
    Production(manager._store).begin_canary(0.5, threshold=1.0, metrics=before.metrics)
    with start_manager(settings) as again:
        assert again.wait(30)
    assert again._store.stages.canary is None
    assert again.versions.production.serial > before.serial + 1
    assert again.versions.production.version == before.version


def test_a_node_adds_its_own_offset_to_the_agreed_threshold(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=3, rounds__count=1, threshold__offset=2.5)
    seen = watch(memory_url)
    with trainers(settings), start_manager(settings), Predictor("p", settings=settings):
        agreed = seen.manifest("production", lambda m: m.number == 1)
        told = seen.status("p", lambda s: s.number == 1, role="predictor")
    assert told.threshold == pytest.approx(agreed.threshold + 2.5)


def test_versions_rejected_late_are_counted_too(memory_url, new_settings):
    manager = start_manager(new_settings(memory_url))
    promoting = manager._promoting
    for _ in range(2):
        promoting._verdict = None
        assert promoting._conclude(Verdict("wait", "nobody yet"))
        assert promoting._conclude(Verdict("reject", "and then badly"))
        assert not promoting._conclude(Verdict("reject", "the same again"))
    assert promoting.rejected == 2
    assert promoting._conclude(Verdict("promote", "better"))
    assert promoting.rejected == 0
    manager._exit.close()
