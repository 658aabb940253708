"""Where the lab lives: all its files, names and addresses."""

import os
from pathlib import Path
from typing import Final

from .shell import run

NAME: Final = os.environ.get("FEDLEARN_LAB", "fedlab")  # of links, network namespaces, cgroups: at most 8 letters
STATE: Final = Path(os.environ.get("FEDLEARN_LAB_DIR", f"/var/lib/{NAME}")).resolve()
CACHE: Final = STATE / "cache"  # Debian trees; `down` keeps it
NODES: Final = STATE / "nodes"
KEY: Final = STATE / "id_ed25519"
KNOWN_HOSTS: Final = STATE / "known_hosts"
PREFIX: Final = os.environ.get("FEDLEARN_LAB_NET", "10.78.0")  # of the nodes' /24: this machine .1, nodeK .(10+K)
FILES: Final = Path(__file__).parent / "files"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def mounts() -> list[tuple[Path, str]]:
    """(mount point, type) of all that is mounted here, oldest first."""
    lines = map(str.split, Path("/proc/mounts").read_text(encoding="utf-8").splitlines())
    return [(Path(point), kind) for _, point, kind, *_ in lines]


def remove(path: Path) -> None:
    """Delete a file or folder; what is mounted below it is unmounted, not deleted."""
    for point, _ in reversed(mounts()):
        if point.is_relative_to(path):
            run("umount", "--lazy", point)
    # Faster than shutil: images are many files.
    run("rm", "--recursive", "--force", "--one-file-system", path, timeout=900)
