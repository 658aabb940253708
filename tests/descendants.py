"""Processes that descend from one of ours, and whether they are gone (Linux)."""

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Descendant:
    pid: int
    command: str
    handle: int  # a pidfd: stays with the process even when its number is used again

    def is_gone(self, within_s: float = 0.0) -> bool:
        """Whether it has ended, waited for."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(within_s * 1000.0))


def descendants(root: int) -> list[Descendant]:
    """All children of `root`, and theirs."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return [Descendant(pid, _command(pid), os.pidfd_open(pid)) for pid in found[1:]]


def survivors(processes: list[Descendant], *, within_s: float) -> list[str]:
    """Commands of those that still live after this time; closes the handles."""
    deadline = time.monotonic() + within_s
    alive = [p.command for p in processes if not p.is_gone(max(deadline - time.monotonic(), 0.0))]
    for process in processes:
        os.close(process.handle)
    return alive


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return -1


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
