"""`Loop.run(until=…)` ends as soon as its condition holds, whoever made it true."""

import threading

from dl_mqtt_clients.services.loop import Loop

DEADLINE_S = 10.0


def ends(loop: Loop, done: list[int]) -> bool:
    thread = threading.Thread(target=lambda: loop.run(until=lambda: bool(done)), daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return not thread.is_alive()


def test_a_timer_that_makes_it_true_ends_the_loop_at_once():
    loop, done = Loop(), []
    loop.at("soon", 0.01, lambda: done.append(1))
    loop.at("much later", 1000.0, lambda: None)
    assert ends(loop, done)


def test_a_call_that_makes_it_true_ends_the_loop_at_once():
    loop, done = Loop(), []
    loop.at("much later", 1000.0, lambda: None)
    loop.post(lambda: done.append(1))
    assert ends(loop, done)


def test_a_timer_that_always_comes_again_lets_calls_through():
    loop, done = Loop(), []

    def again() -> None:
        loop.at("again", 0.0, again)

    again()
    loop.post(lambda: done.append(1))
    assert ends(loop, done)
