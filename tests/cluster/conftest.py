"""One fleet for all tests of this folder: four machines made here, or those of an inventory."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cluster.fleet import ROOT, Fleet

os.environ.setdefault("KERAS_BACKEND", "jax")  # helpers import Keras: the quickest to start
WANTED = os.environ.get("FEDLEARN_CLUSTER", "")


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """One manager and three workers; the third worker is in no group yet."""
    if not WANTED:
        pytest.skip("`make test_cluster` runs it: it makes machines, and takes minutes")
    folder = ROOT / "artifacts/cluster"  # stays: the output of every target
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = _of_inventory(folder, Path(WANTED)) if WANTED != "lab" else None
    if made is not None:
        yield made
        made.report()
        return
    from cluster.lab import lab
    from cluster.lab.node import nodes

    _lab("down")  # what a broken run left
    try:
        _lab("up", "4")
        _lab("base-image")
        hosts = {node.name: {"ansible_host": node.ip} for node in nodes()}
        fleet = _grouped(Fleet(folder, hosts, {**lab.connection(), "base_image": lab.BASE_IMAGE}), list(hosts))
        yield fleet
        fleet.report()
    finally:
        _lab("down")


def _lab(*words: str) -> None:
    """As a command: what it starts lives longer than it."""
    subprocess.run([sys.executable, "-m", "tests.cluster.lab", *words], cwd=ROOT, check=True, timeout=600)


def _grouped(fleet: Fleet, names: list[str]) -> Fleet:
    manager, first, second, *_ = names
    fleet.write(
        manager=[manager], worker_train=[first, second], worker_predict=[first], decomissioned_workers=[],
    )  # fmt: skip
    return fleet


def _of_inventory(folder: Path, path: Path) -> Fleet:
    """Real hosts: the manager and the first three training workers of this inventory."""
    tree: dict[str, Any] = YAML(typ="safe").load(path.read_text(encoding="utf-8"))["all"]
    groups = {group: part.get("hosts") or {} for group, part in tree["children"].items()}
    hosts = {name: values or {} for members in groups.values() for name, values in members.items()}
    names = [*groups["manager"], *[name for name in groups["worker_train"] if name not in groups["manager"]]]
    if len(names) < 4:
        pytest.fail(f"{path}: expected a manager and three other hosts in worker_train. Received: {names}")
    return _grouped(Fleet(folder, hosts, tree.get("vars") or {}), names)
