"""After a rollback nothing is promoted, until an operator promotes something; over real brokers."""

from itertools import groupby

import pytest

from brokers import needs_mosquitto
from dl_mqtt_clients.wire.messages import Answer, Command, Manifest, NodeStatus, RoundReport, encode
from service_helpers import Watch, command, start_manager, trainers

BROKERS = [pytest.param("shared_mosquitto_url", marks=needs_mosquitto), "memory_url"]
BY_COMMAND = {
    "rounds__target_updates": 3,
    "rounds__min_updates": 3,
    "rounds__continuous": False,
    "promotion__gate": True,
    "promotion__tolerance": 10.0,  # every version passes
}


@pytest.fixture(params=BROKERS)
def url(request):
    return request.getfixturevalue(request.param)


class Operator:
    """Gives a federation's manager orders, and looks at what follows."""

    def __init__(self, url, connect, seen: Watch) -> None:
        self.url, self.connect, self.seen = url, connect, seen

    def order(self, word: str, **more) -> Answer:
        return command(self.connect, self.seen, self.url, Command(command=word, **more))

    def fate_of_round(self, number: int) -> str:
        """Of the version that one more round makes."""
        self.seen.client.transport.publish(self.seen.topics.command, encode(Command(command="round")))
        return self.fate(number)

    def fate(self, number: int) -> str:
        def told(history) -> list[RoundReport]:
            return [r for r in history.rounds if r.number == number and r.promotion]

        return told(self.seen.history(told))[0].promotion

    def production(self) -> int:
        """Whose manifest is the newest one there."""
        return self.seen.seen(self.seen.topics.model("production"), Manifest)[-1].number

    def name(self, number: int) -> str:
        return self.seen.manifest("global", lambda m: m.number == number).version

    def make(self, *numbers: int) -> None:
        """Rounds whose versions are promoted, as the base is."""
        self.seen.manifest("production", lambda m: m.number == 0)
        for number in numbers:
            assert self.fate_of_round(number).startswith("promote: ")
            self.seen.manifest("production", lambda m, number=number: m.number == number)


@pytest.fixture
def operator(url, connect, watch):
    return Operator(url, connect, watch(url))


def test_after_a_rollback_good_versions_stay_global_also_after_a_restart_until_one_is_promoted(
    url, new_settings, operator
):
    settings = new_settings(url, **BY_COMMAND)
    with trainers(settings):
        with start_manager(settings, rounds=0):
            operator.make(1, 2)
            answer = operator.order("rollback")
            assert answer.ok
            assert answer.message == "version 1 is in production, and stays there until an operator promotes one"
            assert operator.fate_of_round(3).startswith("wait: on hold after a rollback; loss ")
            operator.seen.manager(lambda s: s.on_hold and s.production == 1 and s.version == 3)
        with start_manager(settings, rounds=0) as again:
            operator.seen.manager(lambda s: s.instance == again._instance)
            assert operator.fate_of_round(4).startswith("wait: on hold after a rollback; loss ")
            assert operator.production() == 1
            operator.seen.manager(lambda s: s.on_hold and s.production == 1 and s.version == 4)
            assert operator.order("promote").message == "version 4 is in production"
            operator.seen.manager(lambda s: s.production == 4 and not s.on_hold)
            assert operator.fate_of_round(5).startswith("promote: loss ")
            operator.seen.manifest("production", lambda m: m.number == 5)


def test_a_hold_counts_for_an_open_gate_too(url, new_settings, operator):
    settings = new_settings(url, **{**BY_COMMAND, "promotion__gate": False})
    with trainers(settings), start_manager(settings, rounds=0):
        operator.make(1)
        assert operator.order("rollback", version=operator.name(0)).ok
        assert operator.fate_of_round(2) == "wait: on hold after a rollback; the gate is open"
        assert operator.production() == 0


def test_what_is_promoted_by_its_name_ends_the_hold_and_the_gate_goes_on_from_it(url, new_settings, operator):
    settings = new_settings(url, **BY_COMMAND)
    with trainers(settings), start_manager(settings, rounds=0) as manager:
        operator.make(1, 2)
        assert operator.order("rollback", version=operator.name(0)).ok
        assert operator.order("promote", version=operator.name(1)).message == "version 1 is in production"
        operator.seen.manager(lambda s: s.production == 1 and not s.on_hold and s.version == 2)
        assert manager.versions.best.version == operator.name(1)
        assert operator.fate_of_round(3).startswith("promote: loss ")
        operator.seen.manifest("production", lambda m: m.number == 3)


def test_a_rollback_without_a_hold_lasts_until_the_next_good_version_and_no_restart_ends_it(
    url, new_settings, operator
):
    settings = new_settings(url, **BY_COMMAND)
    with trainers(settings):
        with start_manager(settings, rounds=0):
            operator.make(1, 2)
            assert operator.order("rollback", hold=False).message == "version 1 is in production"
        with start_manager(settings, rounds=0) as again:
            operator.seen.manager(lambda s: s.instance == again._instance)
            assert operator.fate_of_round(3).startswith("promote: loss ")
            operator.seen.manifest("production", lambda m: m.number == 3)
    assert not operator.seen.manager(lambda s: s.version == 3).on_hold
    after = operator.seen.seen(operator.seen.topics.model("production"), Manifest)
    assert [number for number, _ in groupby(m.number for m in after)] == [0, 1, 2, 1, 3]


def test_a_rollback_to_an_unknown_version_leaves_canaries_and_gate_as_they_are(url, new_settings, operator):
    settings = new_settings(url, **BY_COMMAND, promotion__canary=0.5, promotion__canary_s=600.0)
    seen = operator.seen
    for i in range(32):  # all on one side of the draw once in a thousand million times
        seen.client.transport.publish(
            seen.topics.status(f"p{i}", "predictor"), encode(NodeStatus(state="scoring")), retain=True
        )
    with trainers(settings), start_manager(settings, rounds=0) as manager:
        operator.make()
        assert operator.fate_of_round(1).startswith("wait: canary for 600 s; ")
        assert not operator.order("rollback", version="0" * 64).ok
        assert manager._store.stages.canary.number == 1
        assert not manager._store.stages.on_hold


def test_a_rollback_calls_the_canaries_back(url, new_settings, operator):
    settings = new_settings(url, **BY_COMMAND, promotion__canary=0.5, promotion__canary_s=600.0)
    seen = operator.seen
    for i in range(32):
        seen.client.transport.publish(
            seen.topics.status(f"p{i}", "predictor"), encode(NodeStatus(state="scoring")), retain=True
        )
    with trainers(settings), start_manager(settings, rounds=0) as manager:
        operator.make()
        assert operator.fate_of_round(1).startswith("wait: canary for 600 s; ")
        canary = seen.manifest("canary")
        assert operator.order("rollback", version=operator.name(0)).ok
        assert seen.manifest("production", lambda m: m.serial > canary.serial).number == 0
        assert manager._store.stages.canary is None
        assert not manager.loop.pending("canary")
    assert seen.topics.model("canary") not in seen.retained(operator.url)


def test_a_version_that_was_never_promoted_comes_with_the_threshold_of_what_is_in_production(
    url, new_settings, operator
):
    settings = new_settings(url, **BY_COMMAND)
    with trainers(settings), start_manager(settings, rounds=0):
        operator.make(1)
        assert operator.order("rollback", version=operator.name(0)).ok
        assert operator.fate_of_round(2).startswith("wait: ")
        assert operator.fate_of_round(3).startswith("wait: ")
        held = operator.seen.seen(operator.seen.topics.model("production"), Manifest)[-1]
        assert operator.order("promote", version=operator.name(2)).ok
        assert operator.seen.manifest("production", lambda m: m.number == 2).threshold == held.threshold
