"""What the user of the demonstration asked for, and when to stop. Imports nothing slow."""

import signal
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from dl_mqtt_clients.cli.running import SIGNALS

if TYPE_CHECKING:
    from dl_mqtt_clients.services.loop import Service


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The command's options."""

    rounds: int
    trainers: int
    predictors: int
    data: Path | None
    broker: str | None
    folder: Path
    backend: str | None
    sets: tuple[str, ...]
    json: bool


class Interrupts:
    """The first signal asks the demonstration to end, and to keep what was learnt; the second ends it at once."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal
        self._service: Service | None = None
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants it ignored
                signal.signal(number, self._heard)

    @property
    def exit_code(self) -> int:
        """As a shell counts: 130 for Ctrl-C, 143 for SIGTERM; 0 without a signal."""
        return 128 + self.number if self.number else 0

    def run(self, service: "Service") -> None:
        """Run it in this thread until it is done or a signal came."""
        self._service = service
        if self.number:
            service.stop()
        service.run()

    def _heard(self, number: int, _frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        if self._service is not None:
            self._service.stop()
