"""Signals only ask; the service ends by itself."""

import os
import signal
import threading

import pytest

from dl_mqtt_clients.cli.running import SIGNALS, Stopper
from dl_mqtt_clients.services.loop import Service


class Busy(Service):
    """Sends itself signals inside a step, and notes what it still did."""

    def __init__(self, *signals: signal.Signals) -> None:
        super().__init__()
        self.done: list[str] = []
        self._signals = signals

    def _start(self) -> None:
        self.loop.post(self._step)

    def _step(self) -> None:
        for number in self._signals:
            os.kill(os.getpid(), number)
        threading.Event().wait(0.01)  # the handlers have run by now
        self.done.append("step")

    def _finish(self) -> None:
        self.done.append("goodbye")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_step_finish_and_the_service_say_goodbye(number):
    service = Busy(number)
    stopper = Stopper()
    stopper.run(service)
    assert service.done == ["step", "goodbye"]
    assert stopper.asked


def test_a_second_sigint_changes_nothing():
    service = Busy(signal.SIGINT, signal.SIGINT, signal.SIGTERM)
    Stopper().run(service)
    assert service.done == ["step", "goodbye"]


def test_a_signal_before_the_service_exists_is_kept_for_it():
    stopper = Stopper()
    os.kill(os.getpid(), signal.SIGTERM)
    service = Busy()
    stopper.run(service)
    assert service.done[-1] == "goodbye"


def test_nohup_is_respected():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Stopper()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
