"""The time as people read it."""

import datetime as dt


def now_text() -> str:
    """UTC, to the second: 2026-07-02T13:05:00+00:00."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
