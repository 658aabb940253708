"""Runs a service until it is done or a signal asks it to stop."""

import signal
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dl_mqtt_clients.services.loop import Service

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopper:
    """Turns signals into `service.stop()`, which only puts a word into the service's inbox.

    Nothing else happens in the handler: the service finishes its step, saves, says goodbye, and `run` returns.
    Make it before anything slow is imported: a signal that comes earlier than the service is kept for it.
    """

    def __init__(self) -> None:
        self.asked = False
        self._service: Service | None = None
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
                signal.signal(number, self._ask)

    def run(self, service: "Service") -> None:
        """Run it in this thread; it always says goodbye."""
        self._service = service
        if self.asked:
            service.stop()
        service.run()

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        if self._service is not None:
            self._service.stop()
