"""Every snippet of README and docs: Python runs, YAML loads, JSON parses, commands exist.

A Python snippet that begins with `# name.py` is a file of that name, beside the page's script.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dl_mqtt_clients.config import load_settings
from dl_mqtt_clients.config.inventory import check_inventory
from dl_mqtt_clients.services.from_settings import check_rules

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\w+\.py)\n")


def snippets(page: Path, language: str) -> list[str]:
    return [body for kind, body in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def having(language: str) -> list[pytest.param]:
    return [pytest.param(page, id=page.stem) for page in PAGES if snippets(page, language)]


@pytest.mark.slow
@pytest.mark.parametrize("page", having("python"))
def test_python_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(_without_files(page, tmp_path)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        env=_environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if "Manager(" in script.read_text(encoding="utf-8"):
        assert (tmp_path / "artifacts/updated_model/model.keras").exists()


@pytest.mark.parametrize("page", having("yaml"))
def test_yaml_is_a_configuration(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _without_files(page, tmp_path)
    for number, text in enumerate(snippets(page, "yaml")):
        file = tmp_path / f"{number}.yaml"
        file.write_text(text, encoding="utf-8")
        if text.startswith("all:"):
            assert check_inventory(file)
            continue
        settings = load_settings(file, environ={})
        check_rules(settings)
        assert settings.model_fields_set, text


@pytest.mark.parametrize("page", having("json"))
def test_json_parses_line_by_line(page):
    for text in snippets(page, "json"):
        assert [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("page", having("bash"))
def test_commands_exist(page):
    from dl_mqtt_clients.cli.main import app

    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    known = {"fedlearn", "make", "mosquitto_sub", "mosquitto_pub", "python", "apt-get"}
    for line in (line for text in snippets(page, "bash") for line in text.splitlines()):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        assert words[0] in known, line
        if words[0] == "make":
            assert words[1] in targets, line
        if words[0] == "python":
            assert (ROOT / words[1]).exists(), line
        if words[0] == "fedlearn":
            assert _has_command(app, words[1]), line


def _without_files(page: Path, folder: Path) -> list[str]:
    """The page's Python but for the snippets that are files, which are put into the folder."""
    script = []
    for snippet in snippets(page, "python"):
        if named := _FILE.match(snippet):
            (folder / named[1]).write_text(snippet, encoding="utf-8")
        else:
            script.append(snippet)
    return script


def _has_command(app, name: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-m", "dl_mqtt_clients.cli.main", name, "--help"], capture_output=True, timeout=60, check=False
    )
    return done.returncode == 0


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("FEDLEARN_")}
