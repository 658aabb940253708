"""The loop that every service turns in, and how services begin and end."""

import threading
import time

import pytest

from dl_mqtt_clients.errors import ConfigurationError, DuplicateInstanceError, StateError
from dl_mqtt_clients.services.loop import FATAL, Loop, Service


def run_in_thread(loop):
    thread = threading.Thread(target=loop.run, daemon=True)
    thread.start()
    return thread


def test_calls_from_many_threads_run_one_at_a_time_and_in_each_threads_order():
    loop, seen, running = Loop(), [], []

    def call(name, n):
        running.append(1)
        assert len(running) == 1
        seen.append((name, n))
        running.pop()

    threads = [
        threading.Thread(target=lambda k=k: [loop.post(lambda n=n: call(k, n)) for n in range(100)]) for k in range(4)
    ]
    thread = run_in_thread(loop)
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    loop.stop()
    thread.join(5)
    assert not thread.is_alive()
    for k in range(4):
        assert [n for name, n in seen if name == k] == list(range(100))


def test_timers_run_in_the_order_they_are_due():
    loop, seen = Loop(), []
    for delay_ms in (30, 10, 0, 20):
        loop.at(f"t{delay_ms}", delay_ms / 1000, lambda d=delay_ms: seen.append(d))
    loop.at("end", 0.05, loop.stop)
    loop.run()
    assert seen == [0, 10, 20, 30]


def test_a_timer_set_again_replaces_the_first_and_a_cancelled_one_never_runs():
    loop, seen = Loop(), []
    loop.at("x", 0.0, lambda: seen.append("first"))
    loop.at("x", 0.0, lambda: seen.append("second"))
    loop.at("y", 0.0, lambda: seen.append("never"))
    loop.cancel("y")
    loop.at("end", 0.01, loop.stop)
    loop.run()
    assert seen == ["second"]
    assert not loop.pending("x")


def test_a_timer_may_set_itself_again_without_starving_the_inbox():
    loop, turns = Loop(), []

    def again():
        turns.append(1)
        loop.at("again", 0.0, again)

    again()
    loop.post(loop.stop)
    thread = run_in_thread(loop)
    thread.join(5)
    assert not thread.is_alive()
    assert len(turns) < 10


def test_pump_does_what_is_due_and_leaves_what_comes_meanwhile():
    """A flood of messages must not keep a fit from its next batch."""
    loop, seen = Loop(), []

    def flood():
        seen.append(1)
        loop.post(flood)

    loop.post(flood)
    loop.at("due", 0.0, lambda: seen.append("timer"))
    loop.at("later", 100.0, lambda: seen.append("never"))
    loop.pump()
    assert seen == [1, "timer"]


def test_a_handler_that_fails_is_reported_and_the_loop_goes_on():
    errors = []
    loop = Loop(on_error=errors.append)
    loop.post(lambda: 1 / 0)
    loop.at("x", 0.0, lambda: {}["x"])
    loop.at("end", 0.02, loop.stop)
    loop.run()
    assert {type(e) for e in errors} == {ZeroDivisionError, KeyError}


@pytest.mark.parametrize("error", [ConfigurationError(["x"]), StateError("x"), DuplicateInstanceError("x")])
def test_fatal_errors_end_it(error):
    def fail():
        raise error

    loop = Loop()
    loop.post(fail)
    with pytest.raises(FATAL):
        loop.run()


class Example(Service):
    """Writes down what happens to it."""

    def __init__(self, *, start=None, finish=None):
        super().__init__()
        self.start_error, self.finish_error = start, finish
        self.said = []

    def _start(self):
        self.said.append("start")
        if self.start_error:
            raise self.start_error

    def _finish(self):
        self.said.append("finish")
        if self.finish_error:
            raise self.finish_error


def test_with_runs_it_in_a_thread_and_ends_it():
    with Example() as service:
        assert service.wait(0.01) is False
    assert service.said == ["start", "finish"]


def test_a_service_whose_start_fails_says_goodbye_and_raises_that_error_even_if_the_goodbye_fails_too():
    service = Example(start=StateError("the folder"), finish=ValueError("the goodbye"))
    with pytest.raises(StateError, match="the folder"):
        service.run()
    assert service.said == ["start", "finish"]
    assert "the folder" in service.last_error


def test_the_blocks_own_error_goes_before_the_services():
    with pytest.raises(KeyError), Example(start=StateError("the folder")):
        raise KeyError("mine")


def test_wait_raises_what_ended_the_thread_once():
    service = Example(start=StateError("x"))
    service.__enter__()
    with pytest.raises(StateError):
        service.wait(5)
    assert service.wait(5)


def test_an_idle_loop_sleeps():
    loop = Loop()
    thread = run_in_thread(loop)
    began = time.process_time()
    threading.Event().wait(0.2)
    used = time.process_time() - began
    loop.stop()
    thread.join(5)
    assert loop.turns == 1
    assert used < 0.15
