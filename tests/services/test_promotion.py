"""The gate in a whole federation: a ruined version stays where it is, and an operator has the last word."""

import numpy as np
import pytest

from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Command, Manifest
from service_helpers import Watch, command, readings, start_manager, trainers, until

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3, "promotion__gate": True}


def rounds_of(seen: Watch, count: int) -> tuple:
    """The reports of so many rounds, all of them judged."""
    judged = seen.history(lambda h: len(h.rounds) >= count and all(r.promotion for r in h.rounds[:count]))
    return judged.rounds[:count]


def test_good_versions_are_promoted_and_the_history_says_why(memory_url, new_settings, watch):
    seen = watch(memory_url)
    with trainers(new_settings(memory_url, **ALL)), start_manager(new_settings(memory_url, **ALL), rounds=3) as manager:
        assert manager.wait(60)
    assert manager.versions.production.number == 3
    assert all(r.promotion.startswith("promote: ") for r in rounds_of(seen, 3))


def test_a_version_that_half_the_nodes_ruined_is_not_promoted_and_no_predictor_sees_it(
    memory_url, new_settings, watch, monkeypatch
):
    """Plain mean, and two of four nodes that send their change the wrong way, a hundredfold."""
    settings = new_settings(
        memory_url, rounds__target_updates=4, rounds__min_updates=4, rounds__strategy="FedAvg", promotion__gate=True
    )
    seen = watch(memory_url)
    with (
        start_manager(settings, rounds=4) as manager,
        trainers(settings, ["a", "b"]),
        Poisoner("c", settings=settings, readings=readings(3)),
        Poisoner("d", settings=settings, readings=readings(4)),
        Predictor("p", settings=settings),
    ):
        assert manager.wait(60)
    reports = rounds_of(seen, 4)
    ruined = {r.number for r in reports if r.promotion.startswith("reject: loss")}
    assert ruined
    published = {m.number for m in seen.seen(seen.topics.model("production"), Manifest)}
    assert published
    assert not published & ruined
    assert manager.versions.production.number not in ruined
    assert manager.versions.current.number == 4


class Poisoner(Trainer):
    """Sends the opposite of what it learnt."""

    def _store(self, announced, manifest, base, result, found):
        if announced.number >= 2:
            weights = [
                np.asarray(b - 100.0 * (np.asarray(w) - b), "float32")
                for w, b in zip(result.weights, base, strict=True)
            ]
            object.__setattr__(result, "weights", weights)
        super()._store(announced, manifest, base, result, found)


@pytest.mark.parametrize("named", [True, False])
def test_a_rollback_reaches_the_predictors_and_says_so(memory_url, new_settings, watch, connect, named):
    settings = new_settings(memory_url, **ALL)
    seen = watch(memory_url)
    with trainers(settings), Predictor("p", settings=settings), start_manager(settings, rounds=0) as manager:
        seen.manifest("production", lambda m: m.number >= 2)
        manager.loop.post(lambda: manager._cycle.pause(paused=True))
        until(lambda: manager._cycle.is_paused)
        until(lambda: (r := manager._store.history(1)[0]).promotion and r.version == manager.versions.current.version)
        before = manager.versions.production
        earlier = next(r.version for r in reversed(manager._store.history(100)) if r.number == before.number - 1)
        answer = command(connect, seen, memory_url, Command(command="rollback", version=earlier if named else None))
        assert answer.ok, answer.message
        restored = seen.manifest("production", lambda m: m.serial > before.serial and m.number == before.number - 1)
        assert restored.threshold is not None
        seen.status("p", lambda s: s.number == restored.number, role="predictor")


def test_an_unknown_version_is_no_way_back(memory_url, new_settings, watch, connect):
    seen = watch(memory_url)
    with start_manager(new_settings(memory_url, **ALL)):
        seen.announced()
        answer = command(connect, seen, memory_url, Command(command="rollback", version="0" * 64))
    assert not answer.ok
    assert "expected a kept version" in answer.message
