"""A candidate goes to a share of the predictors first; what they raise alarm about decides."""

import json
from contextlib import ExitStack, contextmanager

import pytest

from brokers import needs_mosquitto
from dl_mqtt_clients.aggregation.promotion import Verdict
from dl_mqtt_clients.services.canary import Alerts, compare, is_canary
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.production import Production
from dl_mqtt_clients.wire.messages import Command, Manifest, NodeStatus, Statistics, encode
from service_helpers import readings, start_manager, trainers, until

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


BROKERS = [pytest.param("shared_mosquitto_url", marks=needs_mosquitto), "memory_url"]
CANARIES = {
    "rounds__target_updates": 3,
    "rounds__min_updates": 3,
    "rounds__continuous": False,
    "rounds__statistics_deadline_s": 600.0,
    "promotion__gate": True,
    "promotion__tolerance": 10.0,
    "promotion__min_nodes": 4,
    "promotion__canary": 0.5,
    "promotion__canary_s": 600.0,
}


@pytest.fixture(params=BROKERS)
def url(request):
    return request.getfixturevalue(request.param)


def is_told(seen, number, words):
    """Until the history says so of this version."""
    return seen.history(lambda h: any(r.number == number and words in r.promotion for r in h.rounds))


def order(seen, word):
    seen.client.transport.publish(seen.topics.command, encode(Command(command=word)))


def told_by_three(seen, number):
    """What each has found of the version, once all have."""
    version = seen.manifest("global", lambda m: m.number == number).version
    return [seen.wait(seen.topics.statistics(n, "trainer"), Statistics, lambda s: s.version == version) for n in "abc"]


def say_of(seen, number):
    """The fourth node's word, after the three: the same as a's."""
    found, *_ = told_by_three(seen, number)
    seen.client.transport.publish(seen.topics.statistics("d", "trainer"), encode(found))


def say_state(seen, node, role, state):
    seen.client.transport.publish(seen.topics.status(node, role), encode(NodeStatus(state=state)), retain=True)


def predictors_on_both_sides(seen):
    """Their statuses: of 32 drawn one by one, all on one side once in a thousand million times."""
    for i in range(32):
        say_state(seen, f"p{i}", "predictor", "scoring")


@contextmanager
def federation_of_four(seen, settings):
    """Nothing is judged before the fourth node has told; version 0 is in production."""
    with start_manager(settings, rounds=0) as manager, trainers(settings):
        predictors_on_both_sides(seen)
        say_of(seen, 0)
        seen.manifest("production", lambda m: m.number == 0)
        yield manager


def test_a_version_that_was_judged_late_goes_to_the_canaries_as_well(url, new_settings, watch):
    seen = watch(url)
    with federation_of_four(seen, new_settings(url, **CANARIES)):
        order(seen, "round")
        is_told(seen, 1, "wait: expected at least 4 nodes. Received: 3")
        say_of(seen, 1)
        assert seen.manifest("canary").number == 1
        is_told(seen, 1, "wait: canary for 600 s; loss")
        assert {m.number for m in seen.seen(seen.topics.model("production"), Manifest)} == {0}


def end_canary(manager):
    """As if its time were up."""
    manager.loop.post(lambda: manager.loop.at("canary", 0.0, manager._promoting._end_canary))


def test_when_a_canary_ends_the_newest_version_is_judged(url, new_settings, watch):
    seen = watch(url)
    with federation_of_four(seen, new_settings(url, **{**CANARIES, "promotion__min_nodes": 3})) as manager:
        order(seen, "round")
        seen.manifest("canary", lambda m: m.number == 1)
        order(seen, "round")
        is_told(seen, 2, "wait: version 1 is with the canaries")
        end_canary(manager)
        seen.manifest("production", lambda m: m.number == 1)
        seen.manifest("canary", lambda m: m.number == 2)
        is_told(seen, 1, "promote: canary: no readings to compare")
        is_told(seen, 2, "wait: canary for 600 s; loss")


def test_when_a_canary_ends_the_newest_version_still_waits_for_nodes_that_have_not_told(url, new_settings, watch):
    seen = watch(url)
    with federation_of_four(seen, new_settings(url, **{**CANARIES, "promotion__min_nodes": 1})) as manager:
        say_state(seen, "d", "trainer", "waiting")
        order(seen, "round")
        say_of(seen, 1)
        seen.manifest("canary", lambda m: m.number == 1)
        order(seen, "round")
        told_by_three(seen, 2)
        until(lambda: manager.versions.current.number == 2 and manager._promoting._evaluation.nodes("trainer") == 3)
        end_canary(manager)
        seen.manifest("production", lambda m: m.number == 1)
        say_of(seen, 2)
        is_told(seen, 2, "over 4 nodes")


def test_versions_rejected_late_are_counted_too(memory_url, new_settings):
    manager = start_manager(new_settings(memory_url))
    promoting = manager._promoting
    for _ in range(2):
        promoting._verdict = None
        assert promoting._conclude(Verdict("wait", "nobody yet"))
        assert promoting._conclude(Verdict("reject", "and then badly"))
        assert not promoting._conclude(Verdict("reject", "and then badly"))
    assert promoting.rejected == 2
    assert promoting._conclude(Verdict("promote", "better"))
    assert promoting.rejected == 0
    manager._exit.close()
