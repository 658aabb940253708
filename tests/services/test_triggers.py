"""Rounds when they are useful: what begins one, and what does not."""

import numpy as np

from dl_mqtt_clients.wire.messages import Command, NodeStatus, Readings, encode
from service_helpers import command, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3, "rounds__continuous": False}


def test_without_a_reason_there_is_no_round_and_a_command_is_one(memory_url, new_settings, watch, connect):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with trainers(settings), start_manager(settings, rounds=1) as manager:
        seen.announced(lambda r: r.phase == "idle")
        seen.manifest("production")
        assert not manager._store.history(10)
        answer = command(connect, seen, memory_url, Command(command="round"))
        assert answer.ok
        assert manager.wait(60)
    (report,) = manager._store.history(10)
    assert (report.outcome, report.reason) == ("merged", "command")


def test_rounds_come_at_an_interval(memory_url, new_settings):
    settings = new_settings(memory_url, **ALL, rounds__every_s=0.2)
    with trainers(settings), start_manager(settings, rounds=3) as manager:
        assert manager.wait(60)
    assert [r.reason for r in manager._store.history(10)] == ["interval"] * 3


def test_rounds_come_when_the_fleet_has_received_enough(memory_url, new_settings, watch, connect):
    settings = new_settings(memory_url, **ALL, rounds__every_readings=1000)
    seen, sensor = watch(memory_url), connect(memory_url, "sensors")

    def receive(count):
        status = NodeStatus(state="waiting", readings=Readings(received=count))
        sensor.transport.publish(seen.topics.status("d", "trainer"), encode(status))

    with start_manager(settings) as manager:
        seen.announced(lambda r: r.phase == "idle")
        receive(0)
        receive(999)
        answer = command(connect, seen, memory_url, Command(command="pause"))
        assert answer.ok
        assert manager._cycle.open_round.reason == ""
        receive(1001)
        seen.wait(seen.topics.round, type(seen.announced(lambda _r: True)), lambda r: r.phase == "paused")
        command(connect, seen, memory_url, Command(command="start"))
        seen.announced(lambda r: r.phase == "open")
        assert manager._cycle.open_round.reason == "1001 new readings"


def test_rounds_come_when_a_node_drifts(memory_url, new_settings, watch, connect):
    settings = new_settings(memory_url, **ALL, rounds__drifted_nodes=1)
    seen, node = watch(memory_url), connect(memory_url, "node")
    with start_manager(settings) as manager:
        seen.announced(lambda r: r.phase == "idle")
        node.transport.publish(seen.topics.status("d", "trainer"), encode(NodeStatus(state="waiting", drift=0.1)))
        node.transport.publish(seen.topics.status("d", "trainer"), encode(NodeStatus(state="waiting", drift=0.5)))
        seen.announced(lambda r: r.phase == "open")
        assert manager._cycle.open_round.reason == "drift on d"


def test_a_round_that_was_begun_goes_on_after_a_restart(memory_url, new_settings, watch, connect):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with start_manager(settings) as first:
        seen.announced(lambda r: r.phase == "idle")
        command(connect, seen, memory_url, Command(command="round"))
        first.stop()
        assert first.wait(20)
    with trainers(settings), start_manager(settings, rounds=1) as again:
        assert again.wait(60)
    assert again._store.history(1)[0].reason == "command"


def test_after_rejected_versions_in_a_row_training_goes_on_from_the_best(memory_url, new_settings):
    settings = new_settings(
        memory_url,
        **(ALL | {"rounds__continuous": True}),
        promotion__return_after=2,
        rounds__statistics_deadline_s=10.0,
    )
    with trainers(settings), start_manager(settings, rounds=7) as manager:
        before = manager._promoting._found

        def ruined_from_the_third(*args):
            from dl_mqtt_clients.aggregation.promotion import Verdict

            return Verdict("reject", "a test's word") if 3 <= manager.versions.current.number <= 5 else before(*args)

        manager._promoting._found = ruined_from_the_third
        assert manager.wait(60)
    reports = manager._store.history(20)
    (returned,) = [r for r in reports if r.outcome == "returned"]
    store = manager._store
    best = next(r for r in reversed(reports) if r.number <= 2 and r.promotion.startswith("promote"))
    assert store.version(returned.version).blobs["weights"] == store.version(best.version).blobs["weights"]
    assert returned.number > best.number
    assert np.isfinite(reports[-1].metrics.holdout_loss)
