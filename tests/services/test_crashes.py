"""Crashes at the worst moments: what was accepted counts, once, and the bits are those of an undisturbed run."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.errors import ConfigurationError, StateError
from dl_mqtt_clients.learning.scaling import ScalerValues
from dl_mqtt_clients.services.manager import Manager
from dl_mqtt_clients.services.production import Production
from dl_mqtt_clients.services.round_cycle import RoundCycle
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Offer, Reply
from dl_mqtt_clients.wire.topics import Topics
from service_helpers import FakeTrainer, core, readings, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}
HERE = Path(__file__).parent


class _Crash(BaseException):
    """As if the process had ended here."""


class CrashingManager(Manager):
    """Ends without a word, as kill -9 would have it; only its lock and its connection go, as a process's do."""

    def _finish(self) -> None:
        self._link.transport.stop()
        self._exit.close()


def crash_once(monkeypatch, owner, name, *, after=False, at=1):
    """The `at`-th call of `owner.name` is the process's last; at its beginning or its end."""
    original, calls = getattr(owner, name), [0]

    def crash(*args, **kwargs):
        calls[0] += 1
        if calls[0] == at and not after:
            raise _Crash
        result = original(*args, **kwargs)
        if calls[0] == at:
            raise _Crash
        return result

    monkeypatch.setattr(owner, name, crash)


def last_words(process):
    return process.stderr.read().decode()[-2000:] if process.stderr else ""


class Script:
    """A service in a process of its own: `run` of service_processes.py with these settings."""

    def __init__(self, role, settings, *args):
        payload = settings.model_dump_json(exclude_unset=True)
        command = [sys.executable, str(HERE / "service_processes.py"), role, payload, *map(str, args)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors.decode()


@pytest.fixture
def script(request):
    """`script("trainer", settings, "a")`; whatever still runs at the end is killed."""
    running = []

    def start(role, settings, *args):
        running.append(Script(role, settings, *args))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.kill()
        one.process.stderr.close()


# ---- the manager -------------------------------------------------------------------------------------------------


def test_a_manager_killed_in_mid_round_goes_on_with_what_it_had_accepted(
    shared_mosquitto_url, new_settings, watch, script, undisturbed
):
    url = shared_mosquitto_url
    settings = new_settings(url, **ALL)
    seen = watch(url)
    first = script("manager", settings, 3)
    with trainers(settings, ["a", "b"]):
        seen.manager(lambda s: s.accepted == 2)
        announced = seen.announced()
        first.kill()
        seen.manager(lambda s: s.state == "lost")  # its will
        second = script("manager", settings, 3)
        with trainers(settings, ["c"]):
            seen.manager(lambda s: s.state == "finished")
            assert second.process.wait(20) == 0, last_words(second.process)
    assert {(r.round, r.attempt) for r in rounds_of(seen)} == {(1, 1), (2, 1), (3, 1), (4, 1)}
    assert {r.generation for r in rounds_of(seen)} == {announced.generation}
    receipts = [(node, r.round) for node in "abc" for r in replies(seen, node) if r.kind == "receipt"]
    assert sorted(set(receipts)) == sorted((n, r) for n in "abc" for r in (1, 2, 3))
    history = seen.history(lambda h: len(h.rounds) == 3)
    assert all(len(r.participants) == 3 for r in history.rounds)
    assert history.rounds[-1].version == undisturbed


def rounds_of(seen):
    from dl_mqtt_clients.wire.messages import Round

    return seen.seen(seen.topics.round, Round)


def replies(seen, node):
    return seen.seen(seen.topics.reply(node), Reply)


POINTS = [
    pytest.param(Store, "append_history", 1, False, id="merged-but-not-in-the-history"),
    pytest.param(Store, "put_version", 2, False, id="weights-written-but-no-version"),
    pytest.param(Store, "write_stages", 3, False, id="version-written-but-not-current"),
    pytest.param(Store, "write_stages", 3, True, id="current-but-nothing-after-it"),
    pytest.param(Store, "keep", 1, False, id="before-old-versions-are-deleted"),
    pytest.param(RoundCycle, "_publish_round", 1, False, id="before-announcing"),
    pytest.param(Manager, "_tell", 1, False, id="before-telling"),
    pytest.param(Production, "promote", 2, False, id="before-promotion"),
    pytest.param(Versions, "export", 2, False, id="before-the-export"),
]


@pytest.mark.parametrize(("owner", "name", "at", "after"), POINTS)
def test_a_manager_that_dies_while_closing_a_round_merges_it_once(
    memory_url, new_settings, undisturbed, monkeypatch, owner, name, at, after
):
    settings = new_settings(memory_url, **ALL)
    with trainers(settings), monkeypatch.context() as patch:
        crash_once(patch, owner, name, at=at, after=after)
        with pytest.raises(_Crash):
            CrashingManager(core(), settings=settings, rounds=3, scaler=scaler()).run()
        patch.undo()
        manager = start_manager(settings, rounds=3).run()
    assert manager.versions.current.version == undisturbed
    assert manager.versions.production.version == undisturbed
    assert manager.versions.current.number == 3


def scaler():
    from service_helpers import SCALER

    return SCALER


@pytest.mark.parametrize(("gate", "promoted"), [(True, 0), (False, 1)])
def test_a_manager_killed_after_its_last_merge_ends_though_nobody_is_left_to_judge(
    memory_url, new_settings, monkeypatch, gate, promoted
):
    settings = new_settings(memory_url, **ALL, rounds__statistics_deadline_s=0.5, promotion__gate=gate)
    with trainers(settings), monkeypatch.context() as patch:
        crash_once(patch, Store, "append_history")
        with pytest.raises(_Crash):
            CrashingManager(core(), settings=settings, rounds=1, scaler=scaler()).run()
    manager = start_manager(settings, rounds=1)
    with manager:
        assert manager.wait(10)
    assert manager.versions.production.number == promoted


def test_a_report_lost_in_a_crash_is_made_up_from_its_version(memory_url, new_settings, watch, monkeypatch):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with trainers(settings), monkeypatch.context() as patch:
        crash_once(patch, Store, "append_history", at=3)  # the second round's: the first one's was promoted
        with pytest.raises(_Crash):
            CrashingManager(core(), settings=settings, rounds=3, scaler=scaler()).run()
        patch.undo()
        start_manager(settings, rounds=3).run()
    history = seen.history(lambda h: len(h.rounds) == 3)
    assert [(r.round, r.outcome, r.number, r.metrics.nodes) for r in history.rounds] == [
        (n, "merged", n, 3) for n in (1, 2, 3)
    ]


def test_fresh_begins_a_new_generation_and_the_nodes_follow(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with trainers(settings) as (a, *_):
        old = start_manager(settings, rounds=2).run()
        generation = old.versions.current.generation
        new = start_manager(settings, model=core(seed=7, hidden=(5,)), fresh=True, rounds=1).run()
        assert new.versions.current.generation > generation
        assert new.versions.current.number == 1
        seen.status("a", lambda s: s.version == new.versions.current.version)
    assert a.manifest.generation == new.versions.current.generation
    late = seen.retained(memory_url)
    named = {b.sha256 for m in new.versions.reachable() for b in m.blobs.values()}
    assert {topic.split("/")[4] for topic in late if "/blob/" in topic} <= named


def test_another_model_or_scaler_than_the_states_is_a_mistake_that_says_what_to_do(memory_url, new_settings):
    settings = new_settings(memory_url)
    start_manager(settings)._exit.close()
    with pytest.raises(ConfigurationError, match=r"model: expected the model that .* was made with.*--fresh"):
        start_manager(settings, model=core(hidden=(5,)))
    with pytest.raises(ConfigurationError, match=r"scaler: expected the scaler"):
        start_manager(settings, scaler=ScalerValues.identity(6))
    start_manager(settings)._exit.close()  # the folder is free again, and nothing in it has changed


def test_one_folder_is_one_managers(memory_url, new_settings):
    settings = new_settings(memory_url)
    first = start_manager(settings)
    with pytest.raises(StateError, match="another process works in this folder"):
        start_manager(settings)
    first._exit.close()
    start_manager(settings)._exit.close()


def test_a_damaged_accepted_update_is_said_and_never_merged(memory_url, new_settings, watch, tmp_path):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with start_manager(settings) as manager, trainers(settings, ["a"]):
        seen.manager(lambda s: s.accepted == 1)
        manager.stop()
    spool = tmp_path / "state" / "manager" / "rounds" / "000001-1" / "updates.bin"
    data = bytearray(spool.read_bytes())
    data[-4:] = np.float32(np.nan).tobytes()
    spool.write_bytes(data)
    with pytest.raises(StateError, match=r"rounds/000001-1: an accepted update is damaged"):
        start_manager(settings).run()


# ---- the trainer -------------------------------------------------------------------------------------------------


def test_a_trainer_killed_in_mid_upload_sends_only_what_is_missing(
    shared_mosquitto_url, new_settings, connect, watch, script, undisturbed
):
    url = shared_mosquitto_url
    settings = new_settings(
        url, **ALL, transfer__chunk_bytes=64, transfer__chunks_in_flight=2, transfer__inline_bytes=0
    )
    seen = watch(url)
    chunks, held, release = [], threading.Event(), threading.Event()
    manager = start_manager(settings, rounds=3)

    def count(delivery):
        chunks.append(int(delivery.topic.rpartition("/")[2]))
        if len(chunks) == 5:
            manager.loop.post(lambda: (held.set(), release.wait(20)))  # the manager is busy just now

    counter = connect(url, "counter", on_message=count)
    counter.transport.subscribe(seen.topics.update("c", "+", "+"))
    with manager, trainers(settings, ["a", "b"]):
        first = script("trainer", settings, "c")
        assert held.wait(20)
        first.kill()
        release.set()
        sent_before = set(chunks)
        offer = seen.offer("c")
        again = script("trainer", settings, "c")
        seen.status("c", lambda s: s.accepted >= 1)
        whole = -(-offer.bytes // 64)
        assert len(sent_before) < whole
        grants = [r.chunks for r in replies(seen, "c") if r.kind == "grant" and r.round == 1]
        assert sum(map(len, grants)) <= whole + 4  # those in flight when it died are granted twice
        assert {o.sha256 for o in seen.seen(seen.topics.offer("c"), Offer) if o.round == 1} == {offer.sha256}
        seen.manager(lambda s: s.state == "finished")
        again.end()
    assert manager.versions.current.version == undisturbed


def test_a_trainer_whose_receipt_was_lost_gets_the_same_again_and_counts_once(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=2)
    seen = watch(memory_url)
    reports = []
    with start_manager(settings, rounds=2, on_round=reports.append):
        announced, manifest = seen.announced(), seen.manifest()
        fake, other = FakeTrainer(seen, "a"), FakeTrainer(seen, "b")
        data = fake.update(manifest)
        assert fake.contribute(announced, data).kind == "receipt"
        for count in (2, 3):  # as if it had never come
            fake.offer(announced, data)
            seen.client.wait(lambda c=count: sum(r.kind == "receipt" for r in replies(seen, "a")) == c)
        assert seen.seen(seen.topics.manager_status, type(seen.manager(lambda s: True)))[-1].accepted <= 1
        assert other.contribute(announced, data).kind == "receipt"
        second = seen.announced(lambda r: r.round == 2)
        fake.offer(announced, data)  # the round is over; it counted all the same
        seen.client.wait(lambda: sum(r.kind == "receipt" for r in replies(seen, "a")) == 4)
        newer = seen.manifest(condition=lambda m: m.number == 1)
        for node in (fake, other):  # equal bytes, but of this round: another update
            assert node.contribute(second, node.update(newer)).kind == "receipt"
        seen.manager(lambda s: s.version == 2)
    assert [sorted(p.node for p in r.participants) for r in reports] == [["a", "b"], ["a", "b"]]


def test_a_restarted_trainer_offers_what_it_had_stored_without_fitting_again(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    topics: Topics = seen.topics
    with start_manager(settings) as manager:
        seen.announced()
        manager.stop()
    announcement = seen.retained(memory_url)[topics.round].payload
    with trainers(settings, ["a"]):
        offer = seen.offer("a")
    fits = []
    second = Trainer("a", settings=settings, readings=readings(ord("a")))
    second._fit = lambda *_a, **_k: fits.append(1)
    before = len(seen.seen(topics.offer("a"), Offer))
    with second:
        seen.client.wait(lambda: len(seen.seen(topics.offer("a"), Offer)) > before)
        again = seen.seen(topics.offer("a"), Offer)[before]
        assert (again.sha256, again.round, again.base) == (offer.sha256, offer.round, offer.base)
        # an older announcement that some broker brings back is no reason to throw it away ...
        old = msgspec.json.decode(announcement) | {"round": 0}
        seen.client.transport.publish(topics.round, msgspec.json.encode(old), retain=True)
        seen.status("a", lambda s: s.round == 0 and s.instance == second._instance)
        count = len(seen.seen(topics.offer("a"), Offer))
        # ... and its own one has it offered again
        seen.client.transport.publish(topics.round, announcement, retain=True)
        seen.client.wait(lambda: len(seen.seen(topics.offer("a"), Offer)) > count)
        # a newer one is
        new = msgspec.json.decode(announcement) | {"round": 2, "base": "f" * 64}
        seen.client.transport.publish(topics.round, msgspec.json.encode(new), retain=True)
        seen.status("a", lambda s: s.round == 2 and s.state == "waiting" and s.instance == second._instance)
    assert not fits
