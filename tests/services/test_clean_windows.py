"""Readings far above normal stay out of the windows, until somebody or time says that they are the new normal."""

import numpy as np
import pytest

from dl_mqtt_clients.config import QuarantineSettings
from dl_mqtt_clients.services import trainer as trainer_module
from dl_mqtt_clients.services.clean_window import JUDGE_EVERY, CleanWindow
from dl_mqtt_clients.services.drift_watch import DriftWatch
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Command
from service_helpers import command, readings, start_manager, trainers

QUIET = {"rounds__target_updates": 2, "rounds__min_updates": 2, "quarantine__quantile": 0.9, "quarantine__recent": 400}


def with_attack(seed: int, share: float) -> np.ndarray:
    """Normal readings, and at the end a share that are nothing like them."""
    x = readings(seed)
    rows = int(len(x) * share)
    x[len(x) - rows :] += 1000.0
    return x


def test_readings_far_above_normal_are_kept_out_and_counted(memory_url, new_settings, watch):
    settings = new_settings(memory_url, **QUIET)
    seen = watch(memory_url)
    with (
        trainers(settings, ["a"]),
        Trainer("b", settings=settings, readings=with_attack(2, 0.05)),
        start_manager(settings, rounds=4) as manager,
    ):
        seen.status("b", lambda s: 20 <= s.quarantined <= 100)
        assert manager.wait(60)
    assert any(r.quarantine for r in seen.seen(seen.topics.round, type(seen.announced(lambda _r: True))))


def test_a_node_in_the_middle_of_an_attack_takes_no_part_until_an_operator_says_it_is_normal(
    memory_url, new_settings, watch, connect
):
    settings = new_settings(
        memory_url,
        **QUIET | {"quarantine__quantile": 0.8, "quarantine__recent": 100, "rounds__target_updates": 3},
        rounds__deadline_s=5.0,
    )
    seen = watch(memory_url)
    with trainers(settings, ["a", "b"]), start_manager(settings):
        seen.announced(lambda r: r.quarantine)
        with Trainer("c", settings=settings, readings=with_attack(2, 0.3)):
            seen.status("c", lambda s: s.detail.startswith("drift: "))
            assert command(connect, seen, memory_url, Command(command="release")).ok
            seen.status("c", lambda s: s.accepted)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_after_the_agreed_time_the_new_normal_is_let_in():
    clock = Clock()
    window = CleanWindow(QuarantineSettings(recent=10, cap=0.2, release_after_s=60.0), clock=clock)
    x = np.arange(20.0).reshape(20, 1)
    scores = lambda rows: rows[:, 0]  # noqa: E731 - the score is the reading
    assert not window.select(x, scores, limit=10.0, total=20).any()
    assert window.drift
    assert window.wait_s == 60.0
    clock.now += 60.0
    assert window.is_due
    assert window.select(x, scores, limit=10.0, total=20).all()
    assert not window.drift


def test_a_window_that_drifts_is_judged_again_only_after_many_readings():
    window = CleanWindow(QuarantineSettings(recent=10, cap=0.2))
    judged = []
    x = np.full((20, 1), 50.0)

    def scores(rows):
        judged.append(len(rows))
        return rows[:, 0]

    for total in (20, 21, 19 + JUDGE_EVERY, 20 + JUDGE_EVERY):
        assert not window.select(x, scores, limit=10.0, total=total).any()
    assert len(judged) == 2


def test_a_score_that_is_no_number_is_above_every_limit():
    window = CleanWindow(QuarantineSettings(recent=100, cap=0.5))
    chosen = window.select(np.zeros((3, 1)), lambda _x: np.array([1.0, np.nan, np.inf]), limit=2.0, total=3)
    assert chosen.tolist() == [True, False, False]
    assert window.kept_out == 2


def test_without_a_limit_everything_is_trained_on():
    assert CleanWindow(QuarantineSettings()).select(np.zeros((3, 1)), lambda x: x[:, 0], limit=None, total=3).all()


@pytest.mark.parametrize(("shift", "strong"), [(0.0, False), (3.0, True)])
def test_drift_shows_in_features_and_scores(shift, strong):
    rng = np.random.default_rng(5)
    watch = DriftWatch()
    watch.learnt_from(rng.normal(size=(4000, 3)).astype(np.float32))
    watch.look(
        (rng.normal(size=(2000, 3)) + np.array([shift, 0, 0])).astype(np.float32), lambda x: np.abs(x).sum(axis=1)
    )
    assert (watch.index > 0.25) == strong


def test_few_readings_say_nothing_of_drift():
    watch = DriftWatch()
    watch.learnt_from(readings(1))
    watch.look(readings(2)[:100], lambda x: np.abs(x).sum(axis=1))
    assert watch.index is None


def test_a_stream_that_changes_shows_as_drift_in_the_status(memory_url, new_settings, watch, connect, monkeypatch):
    monkeypatch.setattr(trainer_module, "DRIFT_EVERY_S", 0.2)
    settings = new_settings(
        memory_url, rounds__target_updates=1, rounds__count=1, readings__spool=False, rounds__statistics_deadline_s=1.0
    )
    seen, sensor = watch(memory_url), connect(memory_url, "sensor")

    def send(x):
        import json

        sensor.transport.publish("reading/b", json.dumps({"data": x.tolist()}).encode())

    with Trainer("b", settings=settings), start_manager(settings):
        seen.manifest()
        seen.status("b", lambda s: s.version)
        send(readings(2, 1000))
        seen.status("b", lambda s: s.accepted == 1)
        send(readings(3, 1000) * 3.0 + 50.0)
        assert seen.status("b", lambda s: s.drift is not None).drift > 0.25
