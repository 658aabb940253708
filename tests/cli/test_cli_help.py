"""Every command explains itself, with an example that works, and `--help` imports nothing heavy."""

import inspect
import re
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dl_mqtt_clients.cli.lazy import EXAMPLE, Command, Group
from dl_mqtt_clients.cli.main import COMMANDS
from dl_mqtt_clients.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
HEAVY = ("pydantic", "keras", "jax", "numpy", "paho", "polars", "msgspec", "matplotlib")
COMMAND_MODULES = ("dl_mqtt_clients.cli.services", "dl_mqtt_clients.cli.demo")


def all_commands() -> list[tuple[str, Command]]:
    found = []
    for name, entry in COMMANDS.items():
        inner = entry.commands if isinstance(entry, Group) else {"": entry}
        found += [(f"{name} {sub}".strip(), command) for sub, command in inner.items()]
    return found


every_command = pytest.mark.parametrize(("path", "command"), all_commands(), ids=[path for path, _ in all_commands()])


@every_command
def test_every_command_has_help_with_an_example_that_it_would_take(path, command, run):
    loaded = command.load(path.split()[-1])
    assert loaded.epilog.startswith(EXAMPLE)
    words = shlex.split(loaded.epilog.removeprefix(EXAMPLE))
    if ">" in words:
        words = words[: words.index(">")]
    given = words[1 + len(path.split()) :]
    assert words == ["fedlearn", *path.split(), *given]
    loaded.make_context(path, given)  # raises for an option that does not exist
    shown = run(*path.split(), "--help")
    assert shown.code == 0
    assert loaded.epilog in shown.out


@every_command
def test_every_command_takes_json(path, command):
    options = [name for parameter in command.load("x").params for name in parameter.opts]
    assert "--json" in options


@every_command
def test_the_list_of_commands_says_what_each_says_of_itself(path, command, run):
    first_sentence = inspect.cleandoc(command.load("x").help).split("\n\n")[0]
    assert command.summary == first_sentence
    assert command.summary in run(*path.split()[:-1], "--help").out


@every_command
def test_every_option_of_every_command_says_what_it_means(path, command):
    assert [p.name for p in command.load("x").params if not p.help] == []


def test_the_reference_page_is_what_the_commands_say():
    assert PAGE.read_text(encoding="utf-8") == reference(), "write it anew: python -m dl_mqtt_clients.cli.reference"


@every_command
def test_every_command_is_documented(path, command):
    assert f"## fedlearn {path}\n" in PAGE.read_text(encoding="utf-8")


def test_help_imports_no_command_and_nothing_that_takes_time():
    script = f"""
import sys
from dl_mqtt_clients.cli.main import main
try:
    main(["--help"])
except SystemExit:
    pass
print([name for name in {HEAVY + COMMAND_MODULES!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_answers_and_its_time_is_printed(capsys):
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "dl_mqtt_clients.cli.main", "--help"], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - began)
    assert "manager" in done.stdout
    with capsys.disabled():
        print(f" [fedlearn --help: median of 5 {statistics.median(seconds):.3f} s]", end="")


def test_a_misspelt_command_is_answered_with_the_likely_one(run):
    result = run("predcit")
    assert result.code == 2
    assert "predict" in re.sub(r"\s+", " ", result.err)


def test_no_command_shows_the_commands(run):
    assert "manager" in run().out


def test_the_version_is_the_packages(run):
    from importlib.metadata import version

    assert run("--version").out.strip() == version("dl-mqtt-clients")
