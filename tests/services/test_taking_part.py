"""Whether a trainer takes part: each reason not to, and which announcements an update outlives."""

import msgspec
import pytest

from dl_mqtt_clients.services.taking_part import still_counts, why_not
from dl_mqtt_clients.wire.messages import Round, Training

BASE, OTHER = "a" * 64, "b" * 64
ROUND = Round(
    generation=1, round=4, attempt=2, phase="open", base=BASE, number=3, seed="s", deadline_s=10.0, min_updates=1,
    training=Training(min_readings=100, min_new_readings=10),
)  # fmt: skip
READY = {"node": "n", "attributes": ("gpu",), "version": BASE, "is_done": False, "held": 100, "new": 10}


def announced(**changes):
    return msgspec.structs.replace(ROUND, **changes)


def test_a_node_that_has_all_that_is_asked_for_takes_part():
    assert why_not(announced(require=("gpu",)), **READY) == ""


@pytest.mark.parametrize(
    ("round_", "changes", "reason"),
    [
        (None, {}, "no open round"),
        (announced(phase="paused"), {}, "no open round"),
        (announced(phase="scaling"), {}, "a scaler to be agreed on"),
        (ROUND, {"version": OTHER}, "version 3 to come"),
        (ROUND, {"version": None}, "version 3 to come"),
        (ROUND, {"is_done": True}, "round 4 is done"),
        (announced(fraction=1e-9), {}, "not drawn for round 4"),
        (announced(codec="zip"), {}, "codec zip is not known here"),
        (announced(require=("gpu", "site:a")), {}, "round 4 asks for site:a"),
        (ROUND, {"held": 99}, "99 of 100 readings"),
        (ROUND, {"new": 9}, "9 of 10 new readings"),
    ],
)
def test_what_is_lacking_is_said(round_, changes, reason):
    assert why_not(round_, **READY | changes) == reason


def test_a_data_set_may_be_small_and_is_never_used_up():
    assert why_not(ROUND, **READY | {"held": None, "new": 0}) == ""


@pytest.mark.parametrize(
    ("now", "counts"),
    [
        (ROUND, True),
        (announced(deadline_s=99.0), True),
        (None, False),
        (announced(attempt=3), False),
        (announced(round=5), False),
        (announced(base=OTHER), False),
        (announced(generation=2), False),
    ],
)
def test_a_synchronous_update_counts_while_its_attempt_is_open(now, counts):
    assert still_counts(ROUND, now) is counts


@pytest.mark.parametrize(
    ("changes", "counts"), [({"round": 9, "base": OTHER}, True), ({"round": 3}, False), ({"generation": 2}, False)]
)
def test_an_asynchronous_update_outlives_its_round_but_not_its_generation(changes, counts):
    assert still_counts(announced(mode="async"), announced(mode="async", **changes)) is counts
