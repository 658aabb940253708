"""When the readings of a trainer's window came; kept beside its spool, so that a restart knows it still."""

import logging
from pathlib import Path
from typing import Final

import msgspec

from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.data.arrivals import Arrivals, Mark, Span
from dl_mqtt_clients.errors import DataError
from dl_mqtt_clients.services.clock import steady_s

log = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 60.0


class _File(msgspec.Struct, kw_only=True):
    first: int
    marks: list[Mark]


class ArrivalTimes:
    """`Arrivals` of a window that holds readings of `total` that ever came; `file` is None for one in memory.

    What a crash left unsaved came between the last mark saved and now. Nothing is known of readings from before the
    first mark; nor of any, when the file cannot be read, is of another spool, or tells of times to come.
    """

    def __init__(self, file: Path | None, *, total: int) -> None:
        self._file = file
        self._arrivals = self._load(total)
        self.save()  # also in place of another spool's

    def add(self, total: int, oldest_s: float, newest_s: float, *, held: int) -> None:
        """The readings up to `total` came between these times; the newest `held` of all are still of interest."""
        self._arrivals.add(total, oldest_s, newest_s)
        self._arrivals.forget(total - held)
        if steady_s() >= self._saved + SAVE_EVERY_S:
            self.save()

    def span(self, first: int, end: int) -> Span:
        """When the readings first … end - 1 came."""
        return self._arrivals.span(first, end)

    def save(self) -> None:
        """Best effort: without it a restart knows less."""
        self._saved = steady_s()
        if self._file is None:
            return
        try:
            content = _File(first=self._arrivals.first, marks=self._arrivals.marks)
            write_atomically(self._file, msgspec.json.encode(content))
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._file, error)

    def _load(self, total: int) -> Arrivals:
        now = steady_s()
        try:
            found = msgspec.json.decode(self._file.read_bytes(), type=_File) if self._file else None
            arrivals = Arrivals(found.first, found.marks) if found else None
        except FileNotFoundError:
            arrivals = None
        except (OSError, ValueError, RecursionError, DataError) as error:
            log.warning("%s: cannot be read, begun anew: %s", self._file, error)
            arrivals = None
        if arrivals is None or not arrivals.marks or arrivals.end > total or arrivals.marks[-1].newest_s > now:
            return Arrivals(total)
        arrivals.add(total, arrivals.marks[-1].oldest_s, now)
        return arrivals
