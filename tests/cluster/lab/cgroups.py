"""A node's own groups in each cgroup hierarchy of this machine, version 1 or 2."""

import contextlib
import os
from pathlib import Path

from .places import NAME, mounts


class Cgroups:
    """`folders`: one in each of version 1's hierarchies, or the one of version 2."""

    def __init__(self, node: str) -> None:
        kinds = mounts()
        v1 = [point / NAME / node for point, kind in kinds if kind == "cgroup"]
        self.v2 = not v1
        self.folders = v1 or [point / NAME / node for point, kind in kinds if kind == "cgroup2"]

    def create(self) -> None:
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            for group in (folder.parent, folder):
                self._inherit(group)

    def join(self) -> None:
        """Puts this process in. After a fork, before the command."""
        for folder in self.folders:
            inner = folder / "init"  # version 2 wants processes in the leaves only
            place = inner if inner.is_dir() else folder
            (place / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def gone(self) -> bool:
        """Removes what no process is in; whether nothing is left."""
        for folder in self.folders:
            for inner, _, _ in os.walk(folder, topdown=False):
                with contextlib.suppress(OSError):  # busy while its last process is being buried
                    Path(inner).rmdir()
        return not any(folder.exists() for folder in self.folders)

    def remove_parents(self) -> None:
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.parent.rmdir()

    def _inherit(self, group: Path) -> None:
        if self.v2:
            known = (group.parent / "cgroup.controllers").read_text(encoding="ascii").split()
            handed = " ".join(f"+{name}" for name in known)
            (group.parent / "cgroup.subtree_control").write_text(handed, encoding="ascii")
        for name in ("cpuset.cpus", "cpuset.mems"):  # empty in a new group of version 1: no process may enter
            file = group / name
            if not self.v2 and file.exists() and not file.read_text(encoding="ascii").strip():
                file.write_text((group.parent / name).read_text(encoding="ascii"), encoding="ascii")
