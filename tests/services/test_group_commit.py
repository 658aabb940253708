"""Updates that come together are stored together, and no receipt leaves before its update is durable."""

import threading
from contextlib import contextmanager

from dl_mqtt_clients.aggregation.spool import Spool
from dl_mqtt_clients.services import collecting
from dl_mqtt_clients.wire.messages import Reply
from service_helpers import FakeTrainer, start_manager

NODES = "abcdef"


@contextmanager
def busy(manager):
    """Messages pile up in the manager's inbox meanwhile."""
    held, release = threading.Event(), threading.Event()
    manager.loop.post(lambda: (held.set(), release.wait(20)))
    assert held.wait(20)
    try:
        yield
    finally:
        release.set()


def send_all(seen, announced, nodes=NODES):
    """Every node's own update, inline."""
    manifest, last = seen.manifest(), ""
    for number, name in enumerate(nodes):
        node = FakeTrainer(seen, name)
        data = node.update(manifest, value=0.01 * (number + 1))
        offer = node.offer(announced, data, inline=True)
        node.send(offer.sha256, data, announced.chunk_bytes)
        last = seen.topics.update(name, offer.sha256, 0)
    seen.client.wait(lambda: last in seen.client.topics(), "the last chunk")


def answers(seen, node):
    return [r.kind for r in seen.seen(seen.topics.reply(node), Reply)]


def watched(monkeypatch, *, fail=0):
    """Sizes of the groups that were stored; the first `fail` are not."""
    groups, original = [], Spool.accept

    def accept(self, *updates):
        groups.append(len(updates))
        if len(groups) <= fail:
            raise OSError(28, "No space left on device")
        original(self, *updates)

    monkeypatch.setattr(Spool, "accept", accept)
    return groups


def test_updates_that_come_together_share_an_fsync_and_each_gets_its_receipt(
    memory_url, new_settings, watch, monkeypatch
):
    groups = watched(monkeypatch)
    seen, reports = watch(memory_url), []
    settings = new_settings(memory_url, rounds__target_updates=len(NODES), rounds__min_updates=len(NODES))
    with start_manager(settings, rounds=1, on_round=reports.append) as manager:
        announced = seen.announced()
        with busy(manager):
            send_all(seen, announced)
        for node in NODES:
            seen.reply(node, lambda r: r.kind == "receipt")
        assert manager.wait(20)
    assert sum(groups) == len(NODES)
    assert max(groups) > 1
    assert [p.node for p in reports[0].participants] == list(NODES)


def test_the_group_that_reaches_the_target_is_no_larger_than_that(memory_url, new_settings, watch, monkeypatch):
    watched(monkeypatch)
    seen, reports = watch(memory_url), []
    settings = new_settings(memory_url, rounds__target_updates=4)
    with start_manager(settings, rounds=1, on_round=reports.append) as manager:
        announced = seen.announced()
        with busy(manager):
            send_all(seen, announced)
        assert manager.wait(20)
    assert len(reports[0].participants) == 4
    assert sum("receipt" in answers(seen, node) for node in NODES) == 4


def test_a_group_that_cannot_be_stored_counts_for_nobody_and_all_may_come_again(
    memory_url, new_settings, watch, monkeypatch
):
    monkeypatch.setattr(collecting, "TOGETHER", len(NODES))
    groups = watched(monkeypatch, fail=1)
    seen, reports = watch(memory_url), []
    settings = new_settings(memory_url, rounds__target_updates=len(NODES), rounds__min_updates=len(NODES))
    with start_manager(settings, rounds=1, on_round=reports.append) as manager:
        announced = seen.announced()
        with busy(manager):
            send_all(seen, announced)
        first = [node for node in NODES if seen.reply(node, lambda r: r.kind in ("wait", "receipt")).kind == "wait"]
        assert len(first) == groups[0]
        send_all(seen, announced, first)
        assert manager.wait(20)
    assert [p.node for p in reports[0].participants] == list(NODES)


def test_an_update_waits_for_no_others(memory_url, new_settings, watch, monkeypatch):
    groups = watched(monkeypatch)
    seen = watch(memory_url)
    with start_manager(new_settings(memory_url, rounds__target_updates=3)):
        announced = seen.announced()
        for node in "ab":
            send_all(seen, announced, node)
            seen.reply(node, lambda r: r.kind == "receipt")
    assert groups == [1, 1]
