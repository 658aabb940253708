"""What is deployed without running it: files that name settings, files and each other must name what there is."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dl_mqtt_clients.config.sources import from_environment

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
UNIT = DEPLOY / "systemd" / "fedlearn@.service"
NAMING = [*sorted(path for path in (DEPLOY / "docker").iterdir() if path.is_file()), UNIT]
STACKS = [DEPLOY / "docker" / "stack.yaml", DEPLOY / "docker" / "compose.yaml"]


@pytest.mark.parametrize("path", NAMING, ids=lambda path: path.name)
def test_every_environment_variable_is_a_setting(path):
    named = set(re.findall(r"\bFEDLEARN_[A-Z]+__[A-Z_]+\b", path.read_text()))
    mistakes = from_environment(dict.fromkeys(named, "x")).mistakes
    assert [mistake.text() for _, mistake in mistakes] == []


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.name)
def test_every_file_of_a_stack_is_there(path):
    sources = re.findall(r"(?<=[ -])(\.\.?/[^:}\s]+)", path.read_text())
    assert sources
    assert [source for source in sources if not (path.parent / source).exists()] == []


@pytest.mark.parametrize("path", STACKS, ids=lambda path: path.name)
def test_every_service_has_a_limit_and_comes_back(path):
    stack = YAML(typ="safe").load(path)
    for name, service in stack["services"].items():
        deploy = service.get("deploy", {})
        assert "restart_policy" in deploy or "restart" in service, name
        limited = deploy.get("resources", {}).get("limits", {}).get("memory") or service.get("mem_limit")
        assert limited or path.name == "compose.yaml", name


def test_no_service_of_the_fleet_needs_virtual_addresses():
    stack = YAML(typ="safe").load(STACKS[0])
    for name, service in stack["services"].items():
        assert service["deploy"]["endpoint_mode"] == "dnsrr", name
        assert all(port["mode"] == "host" for port in service.get("ports", ())), name


def compose() -> list[str] | None:
    """Compose as Docker's plugin, or as Debian's command."""
    for words in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(words[0])
            and not subprocess.run([*words, "version"], check=False, capture_output=True).returncode
        ):
            return words
    return None


@pytest.mark.skipif(compose() is None, reason="no docker compose here (apt-get install docker-compose)")
def test_compose_understands_its_file():
    command = [*(compose() or ()), "-f", STACKS[1], "config", "--quiet"]
    assert subprocess.run(command, check=False, timeout=60, capture_output=True, text=True).stderr == ""


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("command", ["manager", "train", "predict", "generate"])
def test_systemd_understands_the_unit(tmp_path, command):
    text = UNIT.read_text().replace("/opt/fedlearn/venv/bin/fedlearn", sys.executable)
    (tmp_path / UNIT.name).write_text(text)
    unit = tmp_path / UNIT.name.replace("@", f"@{command}")
    done = subprocess.run(["systemd-analyze", "verify", unit], check=False, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
