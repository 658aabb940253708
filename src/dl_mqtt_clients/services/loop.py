"""The one thread of a service: events from other threads, and timers, one after the other.

    loop.post(call)             from any thread, also from a signal handler
    loop.at("offer", 0.5, call) run `call` in 0.5 s on the loop's thread; the same name again replaces it
    loop.run()                  until stop(); loop.pump() does what is due now, without waiting (inside a fit)

An exception in a handler is logged and reported; only fatal ones (`FATAL`) end the service.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, Self

from dl_mqtt_clients.errors import ConfigurationError, DuplicateInstanceError, StateError

log = logging.getLogger(__name__)

Call = Callable[[], None]
FATAL: Final = (ConfigurationError, DuplicateInstanceError, StateError)


class Loop:
    """Runs calls one at a time. `on_error` hears of every exception that was survived."""

    def __init__(self, *, on_error: Callable[[Exception], None] = lambda _error: None) -> None:
        self._inbox: SimpleQueue[Call] = SimpleQueue()
        self._timers: dict[str, tuple[float, Call]] = {}
        self._on_error = on_error
        self.stopping = False
        self.turns = 0  # calls handled: a health check sees the loop turn

    def post(self, call: Call) -> None:
        self._inbox.put(call)

    def stop(self) -> None:
        """End `run` after the call it is in. Safe in a signal handler."""
        self._inbox.put(self._stop)

    def at(self, name: str, delay_s: float, call: Call) -> None:
        self._timers[name] = (time.monotonic() + max(delay_s, 0.0), call)

    def cancel(self, name: str) -> None:
        self._timers.pop(name, None)

    def pending(self, name: str) -> bool:
        return name in self._timers

    @property
    def backlog(self) -> int:
        """Calls that wait."""
        return self._inbox.qsize()

    def run(self, *, until: Callable[[], bool] = lambda: False) -> None:
        """Turn until `stop` was called or `until()` holds after a call."""
        while not self.stopping and not until():
            ran = self._run_timers()
            if self.stopping:
                return
            try:
                call = self._inbox.get(timeout=0.0 if ran else self._wait_s())  # a timer may have made `until` true
            except Empty:
                continue
            self._guard(call)

    def pump(self) -> None:
        """Do everything that is due now; what comes meanwhile waits for the next time, so that a flood ends no fit."""
        for _ in range(self._inbox.qsize()):
            try:
                call = self._inbox.get_nowait()
            except Empty:
                break
            self._guard(call)
            if self.stopping:
                return
        self._run_timers()

    def _stop(self) -> None:
        self.stopping = True

    def _wait_s(self) -> float | None:
        if not self._timers:
            return None
        return max(min(due for due, _ in self._timers.values()) - time.monotonic(), 0.0)

    def _run_timers(self) -> bool:
        """Whether one was due."""
        ran = False
        now = time.monotonic()
        for name, (due, call) in sorted(self._timers.items(), key=lambda timer: timer[1][0]):
            if due <= now and self._timers.get(name) == (due, call):
                del self._timers[name]
                self._guard(call)
                ran = True
        return ran

    def _guard(self, call: Call) -> None:
        self.turns += 1
        try:
            call()
        except FATAL:
            raise
        except Exception as error:
            log.exception("a handler failed; the service goes on")
            self._on_error(error)


class Service:
    """What all services share: `run()` in this thread, or `with service:` in one of its own.

    A service implements `_start`, `_finish` and may narrow `_done`.
    """

    def __init__(self) -> None:
        self.loop = Loop(on_error=self._note_error)
        self.last_error = ""
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    def run(self) -> Self:
        """Work until stopped (or done); always says goodbye."""
        try:
            self._start()
            self.loop.run(until=self._done)
        except BaseException as error:
            self._finish_after(error)
            raise
        self._finish()
        return self

    def stop(self) -> None:
        """Ask the service to end; any thread, any number of times."""
        self.loop.stop()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run_in_thread, name=type(self).__name__, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        self.stop()
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
            log.exception("%s failed as well", type(self).__name__)  # the block's own error goes first

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until a service started by `with` has ended: True, or False when the time is up. Raises its error."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                return False
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return True

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._failure = error

    def _finish_after(self, error: BaseException) -> None:
        """Say goodbye as far as that is possible; the error that ended the service is the one that is told."""
        if isinstance(error, Exception):
            self._note_error(error)
        try:
            self._finish()
        except Exception:
            log.exception("%s: the goodbye failed as well", type(self).__name__)

    def _note_error(self, error: Exception) -> None:
        self.last_error = f"{type(error).__name__}: {error}"[:1000]

    def _start(self) -> None:
        raise NotImplementedError

    def _finish(self) -> None:
        raise NotImplementedError

    def _done(self) -> bool:
        return False
