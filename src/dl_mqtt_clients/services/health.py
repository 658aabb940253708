"""A service's pulse, in a file of its state folder: when its loop turned, and when it heard itself through the broker.

Times are seconds since this machine started, as in /proc/uptime: a clock that is set changes nothing.
"""

import contextlib
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from dl_mqtt_clients.config import Settings

FILE: Final = "pulse"  # beside the list of instances


def uptime_s() -> float:
    """Where Linux's clock is missing: the next best, which is the same in all processes too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, slots=True)
class Health:
    """How long ago, in seconds; infinity: not since this machine started."""

    turned_s: float = math.inf
    heard_s: float = math.inf

    @classmethod
    def read(cls, folder: Path, *, now: float | None = None) -> Self:
        """From a service's folder; a file that is absent or broken is no sign of life."""
        now = uptime_s() if now is None else now
        try:
            turned, heard = map(float, (folder / FILE).read_text(encoding="ascii").split())
        except (OSError, ValueError):
            return cls()
        return cls(_age(turned, now), _age(heard, now))


class Pulse:
    """Written by the service, on its loop."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._heard = math.inf  # not yet

    def turned(self) -> None:
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk shows as a pulse that stops
            new.write_text(f"{uptime_s():.2f} {self._heard:.2f}\n", encoding="ascii")
            new.replace(self._file)

    def heard(self) -> None:
        self._heard = uptime_s()
        self.turned()


def folder_of(settings: Settings, role: str) -> Path:
    """Of a manager, trainer or predictor with these settings."""
    state = Path(settings.node.state_dir)
    return state / role if role == "manager" else state / settings.node_id / role


def _age(then: float, now: float) -> float:
    """Infinite for a time to come: it is from before this machine started anew."""
    return now - then if then <= now else math.inf
