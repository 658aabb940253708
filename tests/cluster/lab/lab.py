"""The whole lab: up, down, its inventory, its base image."""

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from .network import network_down, network_up
from .node import Node, nodes
from .places import CACHE, KEY, KNOWN_HOSTS, NAME, PATH, STATE, remove
from .settings import environment
from .shell import run, step, write
from .trees import BASE, build_base_tree, build_node_tree

BASE_IMAGE: Final = "fedlearn-base:lab"
_LOCK: Final = Path(f"/run/{NAME}.lock")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One change of the lab at a time."""
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up(count: int) -> list[Node]:
    """node1 … nodeN, on and answering. Again is harmless, also after a broken start."""
    build_node_tree()
    if not KEY.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "fedlearn-lab", "-f", KEY)
    network_up()
    wanted = [Node(f"node{number}") for number in range(1, count + 1)]
    with step(f"{count} nodes"):
        for node in wanted:
            node.create()
            if node.pid() is None:
                node.boot()
        for node in wanted:
            node.await_ready()
    _introduce([node for node in nodes() if node.pid() is not None])
    return wanted


def down(*, purge: bool = False) -> None:
    """Ends and removes everything; the cache only when `purge`."""
    with step("down"):
        for node in nodes():
            node.power_off()
        network_down()
        Node("node1").cgroups.remove_parents()
        for path in STATE.iterdir() if STATE.exists() else ():
            if purge or path != CACHE:
                remove(path)
        if purge and STATE.exists():
            STATE.rmdir()


def load_base_image(node: Node) -> str:
    """Debian 12 with Python 3.11 and pip as an image on `node`; its tag.

    It carries this machine's settings of apt and pip: never push it out of the lab.
    """
    build_base_tree()
    if node.run("docker", "image", "inspect", BASE_IMAGE, check=False).returncode:
        settings = {"PATH": PATH, "LANG": "C.UTF-8", **environment()}
        changes = [f"--change=ENV {name}={value}" for name, value in settings.items()]
        with step(f"{BASE_IMAGE} on {node.name}"), BASE.open("rb") as data:
            node.run("docker", "import", *changes, '--change=CMD ["python3"]', "-", BASE_IMAGE, timeout=180, stdin=data)
    return BASE_IMAGE


def connection() -> dict[str, Any]:
    """Ansible's variables that reach the nodes; kept connections lie in the lab's folder: `down` ends them."""
    options = {
        "UserKnownHostsFile": KNOWN_HOSTS, "IdentitiesOnly": "yes", "ControlPath": f"{STATE}/ssh-%h",
        "ConnectTimeout": 5, "ServerAliveInterval": 5, "ServerAliveCountMax": 3,
    }  # fmt: skip
    return {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(KEY),
        "ansible_ssh_common_args": " ".join(f"-o {name}={value}" for name, value in options.items()),
        "ansible_python_interpreter": "/usr/bin/python3",
    }


def inventory(groups: dict[str, Iterable[str]]) -> dict[str, Any]:
    """An Ansible inventory: group -> names of its nodes."""
    children = {
        group: {"hosts": {name: {"ansible_host": Node(name).ip} for name in names}} for group, names in groups.items()
    }
    return {"all": {"vars": connection(), "children": children}}


def _introduce(running: list[Node]) -> None:
    """Nodes know each other by name; this machine knows their keys."""
    keys = ((node.ip, node.folder / "upper/etc/ssh/ssh_host_ed25519_key.pub") for node in running)
    write(KNOWN_HOSTS, "".join(f"{ip} {key.read_text(encoding='utf-8')}" for ip, key in keys))
    hosts = "127.0.0.1 localhost\n" + "".join(f"{node.ip} {node.name}\n" for node in running)
    for node in running:
        node.run("sh", "-c", "cat >/etc/hosts", input=hosts)
