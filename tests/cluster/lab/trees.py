"""The Debian trees: one that all nodes share, one for the base image. Made once, kept in the cache."""

import shutil
from pathlib import Path
from typing import Final

from .places import CACHE, FILES, remove
from .settings import apt_files, apt_sources, copy_into, environment
from .shell import run, step, write

ROOTFS: Final = CACHE / "node"
BASE: Final = CACHE / "base-image.tar"
_NODE: Final = (
    "docker.io,openssh-server,python3,python3-docker,python3-yaml,python3-jsondiff,"
    "iproute2,iptables,procps,ca-certificates,curl,openssl,sysvinit-utils"
)
_IMAGE: Final = "python3,python3-pip,python3-venv,ca-certificates"
_TOOLS: Final = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "ssh": "openssh-client",
    "mkfs.ext4": "e2fsprogs",
}
_OWN: Final = ("unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")  # its mounts end with it
_TIED: Final = ("setpriv", "--pdeathsig", "KILL", *_OWN)


def build_node_tree() -> None:
    if ROOTFS.exists():
        return
    _install_tools()
    with step("the nodes' Debian tree (once; kept in the cache)"):
        tree = _debian(CACHE / "node.new", _NODE)
        for key in (tree / "etc/ssh").glob("ssh_host_*"):
            key.unlink()
        write(tree / "etc/environment", "".join(f'{name}="{value}"\n' for name, value in environment().items()))
        for name, place in {"init.sh": "sbin/init", "docker.sh": "etc/init.d/docker"}.items():
            write(tree / place, (FILES / name).read_text(encoding="utf-8"), mode=0o755)
        tree.rename(ROOTFS)


def build_base_tree() -> None:
    """Debian 12 with Python 3.11 and pip, as a tar for `docker import`."""
    if BASE.exists():
        return
    with step("the base image's Debian tree (once; kept in the cache)"):
        tree, new = _debian(CACHE / "base.new", _IMAGE), BASE.with_suffix(".new")
        for marker in (tree / "usr/lib").glob("python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        for alias, tool in {"python": "python3", "pip": "pip3"}.items():
            (tree / "usr/local/bin" / alias).symlink_to(f"/usr/bin/{tool}")
        run("tar", "-C", tree, "--exclude=./var/cache/apt/*", "--exclude=./var/log/*", "-cf", new, ".", timeout=120)
        new.rename(BASE)
        remove(tree)


def _debian(tree: Path, packages: str) -> Path:
    """Debian 12, minimal, with these packages, from this machine's sources."""
    CACHE.mkdir(parents=True, exist_ok=True)
    remove(tree)
    options = [f"--aptopt={file}" for file in apt_files()]
    options += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
    command = (*_TIED, "mmdebstrap", "--variant=minbase", f"--include={packages}", *options, "bookworm", tree)
    run(*command, *apt_sources(), timeout=900)
    copy_into(tree)
    return tree


def _install_tools() -> None:
    missing = [package for tool, package in _TOOLS.items() if not shutil.which(tool)]
    if missing:
        with step(f"apt-get install {' '.join(missing)}"):
            run("apt-get", "update", timeout=180)
            run("apt-get", "install", "-y", "--no-install-recommends", *missing, timeout=300)
