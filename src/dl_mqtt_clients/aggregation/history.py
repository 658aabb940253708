"""The reports of rounds: a line each on disk, and the newest in memory, as they are on disk.

Both are bounded in bytes, not in rounds: the report of a round with 2,000 nodes is 350 KB.
"""

from pathlib import Path
from typing import Final

import msgspec

from dl_mqtt_clients.aggregation.files import append_lines, keep_newest, whole_lines
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.wire.messages import RoundReport

MEMORY_BYTES: Final = 4 << 20
DISK_BYTES: Final = 64 << 20  # then the older half goes

Key = tuple[int, int]  # round, attempt


class HistoryFile:
    """StateError when a line is no report. What is written last of a round attempt takes the place of the former."""

    def __init__(self, path: Path, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES) -> None:
        self.path = path
        self._memory_bytes, self._disk_bytes = memory_bytes, disk_bytes
        self._lines: dict[Key, bytes] = {}
        self._held = 0  # bytes of these
        for line in whole_lines(path):
            report = self._decode(line)
            self._hold((report.round, report.attempt), line)

    def append(self, report: RoundReport) -> None:
        """Make it durable. OSError, and nothing changed, when that cannot be."""
        line = msgspec.json.encode(report)
        append_lines(self.path, [line])
        self._hold((report.round, report.attempt), line)
        if self.path.stat().st_size > self._disk_bytes:
            keep_newest(self.path, self._disk_bytes // 2)

    def __len__(self) -> int:
        """Reports in memory."""
        return len(self._lines)

    def newest(self, count: int, *, most_bytes: int | None = None) -> list[RoundReport]:
        """The newest reports, oldest first: at most `count`, and as many of these as are `most_bytes` together."""
        chosen: list[bytes] = []
        for line in list(self._lines.values())[-count:][::-1] if count > 0 else ():
            most_bytes = None if most_bytes is None else most_bytes - len(line) - 1
            if most_bytes is not None and most_bytes < 0:
                break
            chosen.append(line)
        return [self._decode(line) for line in reversed(chosen)]

    def begin_anew(self, old: Path) -> None:
        """What there is goes to `old`."""
        if self.path.exists():
            self.path.replace(old)
        self._lines, self._held = {}, 0

    def _hold(self, key: Key, line: bytes) -> None:
        self._held += len(line) - len(self._lines.get(key, b""))
        self._lines[key] = line
        while self._held > self._memory_bytes and len(self._lines) > 1:
            self._held -= len(self._lines.pop(next(iter(self._lines))))

    def _decode(self, line: bytes) -> RoundReport:
        try:
            return msgspec.json.decode(line, type=RoundReport)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise StateError(f"{self.path}: a line cannot be read: {error}") from error
