"""The time as people read it."""

import datetime as dt
import time
from typing import Final

_ZERO: Final = time.time() - time.monotonic()


def steady_s() -> float:
    """Seconds since 1970, as they were known when the process began: runs on evenly when the clock is set."""
    return _ZERO + time.monotonic()


def now_text() -> str:
    """UTC, to the second: 2026-07-02T13:05:00+00:00."""
    return as_text(time.time())


def as_text(seconds: float) -> str:
    """Seconds since 1970 as `now_text` says them."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
