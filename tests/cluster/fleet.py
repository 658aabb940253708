"""A fleet that the tests deploy to: its inventory, its make targets, and what Docker says there."""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("VENV", ROOT / ".venv")) / "bin"
ANSIBLE = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "configuration/ansible/ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
MAKE_S = 600.0


class Fleet:
    """`groups`: group -> names of hosts, written to `inventory` by `write`. `times`: step -> seconds."""

    def __init__(self, folder: Path, hosts: dict[str, dict[str, Any]], variables: dict[str, Any]) -> None:
        self.folder, self.hosts = folder, hosts
        self.inventory = folder / "inventory.yaml"
        self.configuration = folder / "federated_learning.yaml"
        self.saved = folder / "updated_model"
        self.groups: dict[str, list[str]] = {}
        self.times: dict[str, float] = {}
        self._variables = {
            **variables,
            "configuration": str(self.configuration),
            "secrets": str(folder / "secrets"),
            "generator": True,
        }

    @property
    def manager(self) -> str:
        return self.groups["manager"][0]

    @property
    def password(self) -> str:
        """Of the user `operator` at the federation broker."""
        return (self.folder / "secrets/operator").read_text(encoding="ascii").strip()

    def write(self, **groups: list[str]) -> None:
        """The inventory with these groups changed."""
        self.groups |= groups
        children = {group: {"hosts": {n: self.hosts[n] for n in names}} for group, names in self.groups.items()}
        tree = {"all": {"vars": self._variables, "children": children}}
        self.inventory.write_text(json.dumps(tree, indent=2), encoding="utf-8")  # JSON is YAML

    def configure(self, **sections: dict[str, Any]) -> None:
        self.configuration.write_text(json.dumps(sections, indent=2), encoding="utf-8")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            again = sum(known.split(" #")[0] == name for known in self.times)
            name += f" #{again + 1}" if again else ""
            self.times[name] = round(time.monotonic() - began, 1)
            print(f"{name}: {self.times[name]} s", flush=True)

    def make(self, target: str, arguments: str = "") -> str:
        """The output of `make target`; fails with its end."""
        words = [f"CLUSTER_INVENTORY={self.inventory}", f"ARGS=-e fedlearn_saved={self.saved} {arguments}"]
        with self.step(f"make {target} {arguments}".strip()):
            done = _run(["make", "-C", str(ROOT), target, *words], MAKE_S)
        (self.folder / f"{len(self.times):02}-{target}.log").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            pytest.fail(f"make {target}: exit {done.returncode}\n{done.stdout[-6000:]}")
        return done.stdout

    def on(self, host: str, command: str, *, check: bool = True) -> str:
        """The output of a shell command on a host, as root."""
        words = [str(BIN / "ansible"), host, "-i", str(self.inventory), "-b", "-m", "ansible.builtin.shell"]
        done = _run([*words, "-a", command], 90.0)
        if check and done.returncode:
            pytest.fail(f"{host}: {command}: {done.stdout[-2000:]}")
        return done.stdout.partition(">>\n")[2].strip()

    def docker(self, host: str, command: str) -> list[str]:
        """The lines that `docker …` prints there."""
        return [line for line in self.on(host, f"docker {command}").splitlines() if line]

    def until(self, condition: Callable[[], object], what: str, deadline_s: float = 120.0) -> None:
        """Asks again until it is true; each question takes a second or so."""
        end = time.monotonic() + deadline_s
        while not condition():
            if time.monotonic() > end:
                pytest.fail(f"no {what} within {deadline_s} s")

    def report(self) -> None:
        """How long each step took, as a table and in artifacts/cluster."""
        width = max(map(len, self.times), default=0)
        print("\n" + "\n".join(f"{name:{width}}  {seconds:7.1f} s" for name, seconds in self.times.items()))
        (self.folder / "times.json").write_text(json.dumps(self.times, indent=2), encoding="utf-8")


def changed(output: str) -> dict[str, int]:
    """Host -> number of changed tasks, of a playbook's recap."""
    recap = output.rpartition("PLAY RECAP")[2]
    return {host: int(number) for host, number in re.findall(r"^(\S+)\s+: ok=\d+\s+changed=(\d+)", recap, re.MULTILINE)}


def _run(words: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, env=ANSIBLE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False
    )
