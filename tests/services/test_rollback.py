"""An operator's way back, on a real broker: every predictor scores with the earlier version at once."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from brokers import needs_mosquitto
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Command, encode
from service_helpers import Watch, command, feed, readings, scores_of, start_manager, trainers

PREDICTORS = ("p1", "p2", "p3")
BY_COMMAND = {"rounds__target_updates": 3, "rounds__min_updates": 3, "rounds__continuous": False}


@contextmanager
def streams(seen: Watch) -> Iterator[None]:
    """Readings for every predictor, all the time."""
    rows, ended = readings(5, 32), threading.Event()

    def flow() -> None:
        while not ended.wait(0.005):
            for node in PREDICTORS:
                feed(seen.client, node, rows)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def all_score_with(seen: Watch, number: int) -> None:
    """Until each predictor's newest scores are this version's."""

    def newest() -> list[int]:
        return [scores[-1].number for node in PREDICTORS if (scores := scores_of(seen.client, f"score/{node}"))]

    seen.client.wait(lambda: newest() == [number] * len(PREDICTORS), f"scores of version {number}", seen.deadline_s)


@pytest.mark.parametrize("broker", [pytest.param("shared_mosquitto_url", marks=needs_mosquitto), "memory_url"])
def test_every_predictor_scores_with_the_version_that_was_rolled_back_to(request, new_settings, watch, connect, broker):
    url = request.getfixturevalue(broker)
    settings, seen = new_settings(url, **BY_COMMAND), watch(url)
    for node in PREDICTORS:
        seen.client.transport.subscribe(f"score/{node}")
    with ExitStack() as stack:
        stack.enter_context(trainers(settings))
        for node in PREDICTORS:
            stack.enter_context(Predictor(node, settings=settings))
        manager = stack.enter_context(start_manager(settings, rounds=0))
        for number in range(3):
            seen.manifest("production", lambda m, number=number: m.number == number)
            seen.client.transport.publish(seen.topics.command, encode(Command(command="round")))
        before = seen.manifest("production", lambda m: m.number == 3)
        stack.enter_context(streams(seen))
        all_score_with(seen, before.number)
        began = time.monotonic()
        answer = command(connect, seen, url, Command(command="rollback"))
        assert answer.ok, answer.message
        all_score_with(seen, 2)
        print(f"all predictors after {time.monotonic() - began:.3f} s")  # told, not tested
        assert manager.versions.production.version == before.base
        difference = command(
            connect,
            seen,
            url,
            Command(command="diff", version=before.version, other=manager.versions.production.version),
        )
    assert len(difference.differences) == len(before.variables)
    assert any(d.change > 0 for d in difference.differences)
    assert all(d.change == 0 for d in difference.differences if d.role == "scaler")
