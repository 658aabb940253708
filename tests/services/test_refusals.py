"""Updates that do not count: refused with their reason, and counted; the round goes on as if they had not been."""

import itertools

import msgspec
import numpy as np
import pytest

from dl_mqtt_clients.aggregation.spool import Spool
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.services import outbox
from dl_mqtt_clients.wire.messages import Manifest, Reply, Round
from dl_mqtt_clients.wire.transfer import sha256
from dl_mqtt_clients.wire.weights import encode, update_positions
from service_helpers import FakeTrainer, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


@pytest.fixture(params=["memory", "mosquitto"])
def stranger(request, memory_url, new_settings, watch, undisturbed):
    """`stranger()`: may try something while a round has two of three updates; in the end all is as ever."""
    url = memory_url if request.param == "memory" else request.getfixturevalue("shared_mosquitto_url")
    settings = new_settings(url, **ALL)
    seen = watch(url)
    names = (f"stranger{i}" for i in itertools.count())

    def come(name=""):
        fake = FakeTrainer(seen, name or next(names))
        fake.announced, fake.manifest = announced, manifest
        return fake

    with start_manager(settings, rounds=3) as manager, trainers(settings, ["a", "b"]):
        seen.manager(lambda s: s.accepted == 2)
        announced, manifest = seen.announced(), seen.manifest()
        yield come
        with trainers(settings, ["c"]):
            assert manager.wait(20)
    assert manager.versions.current.version == undisturbed
    history = seen.history(lambda h: len(h.rounds) == 3)
    assert all([p.node for p in r.participants] == ["a", "b", "c"] for r in history.rounds)


def arrays(manifest: Manifest, value: float = 0.01) -> tuple[list[np.ndarray], tuple[int, ...]]:
    positions = update_positions(manifest.variables)
    return [np.full(manifest.variables[p].shape, value, np.float32) for p in positions], positions


def with_value(manifest: Manifest, value: float) -> bytes:
    parts, positions = arrays(manifest)
    parts[-1].reshape(-1)[-1] = value
    return encode(parts, positions)


def other_shapes(manifest: Manifest) -> bytes:
    parts, positions = arrays(manifest)
    parts[0] = parts[0].T.copy()
    return encode(parts, positions)


def other_positions(manifest: Manifest) -> bytes:
    parts, positions = arrays(manifest)
    return encode(parts, [p - 2 for p in positions])


def too_few(manifest: Manifest) -> bytes:
    parts, positions = arrays(manifest)
    return encode(parts[:-1], positions[:-1])


def half_precision(manifest: Manifest) -> bytes:
    parts, positions = arrays(manifest)
    parts = [np.concatenate([p.reshape(-1)] * 2).astype(np.float16).reshape((*p.shape, 2)) for p in parts]
    return encode(parts, positions)


CONTENTS = [
    (lambda m: with_value(m, float("nan")), "holds NaN"),
    (lambda m: with_value(m, float("inf")), "holds NaN"),
    (lambda m: with_value(m, 1e6), "expected |change| ≤ 100"),
    (other_shapes, "expected ('F32', (6, 8)). Received: ('F32', (8, 6))"),
    (other_positions, "expected exactly 8"),
    (too_few, "expected exactly 8"),
    (half_precision, "Received: ('F16'"),
    (lambda m: bytes(len(encode(*arrays(m)))), "weights: "),
    (lambda m: b"\xff" * len(encode(*arrays(m))), "header length"),
]
OFFERS = [
    ({"round": 0}, "another round: expected 1.1, received 0.1"),
    ({"round": 2}, "another round: expected 1.1, received 2.1"),
    ({"attempt": 2}, "another round: expected 1.1, received 1.2"),
    ({"base": "e" * 64}, "built on another version"),
    ({"bytes": 10**9}, "wrong size"),
    ({"bytes": 10}, "wrong size"),
]
CUTS = [lambda c: c[:-1], lambda c: c + b"x", lambda _c: b""]


def test_updates_with_wrong_content_are_refused(stranger):
    for make, reason in CONTENTS:
        fake = stranger()
        assert reason in fake.refusal(fake.announced, make(fake.manifest)), make
    fake.watch.manager(lambda s: sum(s.refused.values()) == len(CONTENTS) and s.accepted == 2)


def test_offers_that_cannot_count_are_refused_before_a_byte_of_them_is_sent(stranger):
    for changes, reason in OFFERS:
        fake = stranger()
        answer = fake.reply(fake.offer(fake.announced, fake.update(fake.manifest), **changes))
        assert answer.kind == "refusal", changes
        assert reason in answer.reason
    kinds = {"another round": 3, "built on another version than the announced one": 1, "wrong size": 2}
    fake.watch.manager(lambda s: s.refused == kinds)


def test_uploads_that_go_wrong_are_refused(stranger):
    """Another hash than offered; chunks too short, too long, empty, beyond the end."""
    fake = stranger()
    data = fake.update(fake.manifest)
    name = sha256(b"something else")
    offer = fake.offer(fake.announced, data, sha256=name)
    fake.reply(offer, lambda r: r.kind == "grant")
    fake.send(name, data, fake.announced.chunk_bytes)
    assert "its content has another hash" in fake.reply(offer, lambda r: r.kind == "refusal").reason
    chunks = [(0, cut(data), "chunk 0: expected") for cut in CUTS]
    for index, chunk, reason in [*chunks, (10**6, data, "chunk 1000000: expected 0 … 0")]:
        fake = stranger()
        offer = fake.offer(fake.announced, data)
        fake.reply(offer, lambda r: r.kind == "grant")
        fake.transport.publish(fake.watch.topics.update(fake.node, offer.sha256, index), chunk)
        assert reason in fake.reply(offer, lambda r: r.kind == "refusal").reason
    fake.watch.manager(lambda s: s.refused == {"blob": 1, "chunk": 4})


def test_a_newer_protocol_and_a_second_update_are_refused(stranger):
    fake = stranger()
    data = fake.update(fake.manifest)
    offer = fake.offer(fake.announced, data, round=0)
    newer = msgspec.json.decode(msgspec.json.encode(offer)) | {"v": 2, "novelty": {"x": 1}}
    fake.transport.publish(fake.watch.topics.offer(fake.node), msgspec.json.encode(newer))
    answer = fake.watch.reply(fake.node, lambda r: r.sha256 == "0" * 64)
    assert "Offer: expected protocol version 0 or 1. Received: 2" in answer.reason
    assert "Received: 2" in fake.watch.manager(lambda s: s.refused.get("malformed message")).last_error
    again = stranger("a")
    assert "another update of this node" in again.refusal(fake.announced, data)


def test_a_node_that_is_not_on_the_list_is_refused(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1, federation__nodes=("a",))
    seen = watch(memory_url)
    with start_manager(settings, rounds=1) as manager:
        announced, manifest = seen.announced(), seen.manifest()
        fake = FakeTrainer(seen, "stranger")
        assert fake.refusal(announced, fake.update(manifest)) == "unknown node"
        seen.manager(lambda s: s.refused == {"unknown node": 1})
        known = FakeTrainer(seen, "a")
        assert known.contribute(announced, fake.update(manifest)).kind == "receipt"
        assert manager.wait(20)


def test_an_offer_one_version_back_is_taken(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1)
    seen = watch(memory_url)
    with start_manager(settings, rounds=1) as manager:
        old = FakeTrainer(seen, "old")
        announced, manifest = seen.announced(), seen.manifest()
        assert old.contribute(announced, old.update(manifest), v=0).kind == "receipt"
        assert manager.wait(20)


def test_who_is_not_in_the_cohort_is_refused(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__fraction=0.5, rounds__target_updates=2)
    seen = watch(memory_url)
    with start_manager(settings):
        announced, manifest = seen.announced(), seen.manifest()
        answers = {}
        for name in (f"n{i}" for i in range(8)):
            fake = FakeTrainer(seen, name)
            offer = fake.offer(announced, fake.update(manifest))
            answers[name] = fake.reply(offer)
        refused = {n for n, a in answers.items() if a.kind == "refusal"}
        assert {answers[n].reason for n in refused} == {"not in this round's cohort"}
        assert 0 < len(refused) < 8


def test_kinds_of_refusals_stay_few_whatever_strangers_say(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1)
    seen = watch(memory_url)
    with start_manager(settings) as manager:
        announced, manifest = seen.announced(), seen.manifest()
        fake = FakeTrainer(seen, "stranger")
        for i in range(30):
            data = fake.update(manifest, value=i)
            offer = fake.offer(announced, data, sha256=sha256(b"%d" % i))
            fake.reply(offer, lambda r: r.kind == "grant")
            if i % 2:
                fake.send(offer.sha256, data, announced.chunk_bytes)
            else:
                fake.transport.publish(seen.topics.update("stranger", offer.sha256, 100 + i), b"x")
            fake.reply(offer, lambda r: r.kind == "refusal")
        status = manager.current_status()
    assert status.refused == {"chunk": 15, "blob": 15}


def test_a_full_disk_makes_trainers_wait_and_loses_nothing(memory_url, new_settings, watch, monkeypatch, undisturbed):
    settings = new_settings(memory_url, **ALL, transfer__min_free_disk_bytes=2**50)
    monkeypatch.setattr(outbox, "ANSWERED", 0)  # not four seconds later
    seen = watch(memory_url)
    manager = start_manager(settings, rounds=3)
    with trainers(settings), manager:
        for node in "abc":
            assert "too little free" in seen.reply(node, lambda r: r.kind == "wait").reason
        status = seen.manager(lambda s: "disk" in s.last_error)
        assert status.accepted == 0
        manager._store.free_bytes = lambda: 2**60  # somebody has tidied up
        assert manager.wait(30)
    assert manager.versions.current.version == undisturbed


@pytest.mark.parametrize("place", ["accept", "append_history", "put_blob", "write_stages", "write_open_round"])
def test_a_write_that_fails_once_is_made_again(memory_url, new_settings, watch, monkeypatch, undisturbed, place):
    """The disk is full for a moment: while storing an update, or while closing a round."""
    monkeypatch.setattr(outbox, "ANSWERED", 0)  # not four seconds later
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    manager = start_manager(settings, rounds=3)
    owner = Spool if place == "accept" else Store
    original, failures = getattr(owner, place), []

    def fail_once(*args, **kwargs):
        if not failures and manager.versions.current.number == 1:
            failures.append(place)
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, place, fail_once)
    with trainers(settings), manager:
        assert manager.wait(30)
    assert failures
    seen.manager(lambda s: "No space left" in s.last_error)
    assert manager.versions.current.version == undisturbed
    assert manager.versions.current.number == 3


def test_a_trainer_whose_disk_is_full_says_so_and_takes_part_again(memory_url, new_settings, watch, monkeypatch):
    settings = new_settings(memory_url, rounds__target_updates=2, rounds__min_updates=1, rounds__deadline_s=1.0)
    seen = watch(memory_url)
    original, full = outbox.write_atomically, [True]

    def write(path, data):
        if full and "/a/" in str(path):
            raise OSError(28, "No space left on device")
        original(path, data)

    monkeypatch.setattr(outbox, "write_atomically", write)
    with trainers(settings, ["a", "b"]), start_manager(settings):
        seen.status("a", lambda s: "No space left" in s.last_error and s.state == "waiting")
        first = seen.history(lambda h: any(r.outcome == "merged" for r in h.rounds)).rounds[-1]
        assert [p.node for p in first.participants] == ["b"]
        full.clear()
        seen.status("a", lambda s: s.accepted >= 1)


def test_refusals_reach_the_trainer_and_it_goes_on(memory_url, new_settings, watch):
    settings = new_settings(memory_url, rounds__target_updates=1)
    seen = watch(memory_url)
    topics = seen.topics
    with trainers(settings, ["a"]) as (trainer,):
        start_manager(settings, rounds=1).run()
        seen.status("a", lambda s: s.accepted == 1)
        base = trainer.manifest
        announced = Round(generation=base.generation, round=2, attempt=9, phase="open", base=base.version)
        seen.client.transport.publish(topics.round, msgspec.json.encode(announced), retain=True)
        offer = seen.offer("a", lambda o: o.attempt == 9)
        refusal = Reply(kind="refusal", round=offer.round, attempt=9, sha256=offer.sha256, reason="for a test")
        seen.client.transport.publish(topics.reply("a"), msgspec.json.encode(refusal))
        status = seen.status("a", lambda s: s.refused == 1 and s.state == "waiting")
    assert "refused: for a test" in status.last_error
    assert status.detail == "round 2 is done"
