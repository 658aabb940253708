"""`python -m dl_mqtt_clients.cli.reference > docs/reference/cli.md`: the commands' own help as a page.

A test compares the page with what this module writes.
"""

import sys
from collections.abc import Iterator
from typing import Any, Final

from dl_mqtt_clients.cli.lazy import EXAMPLE, Group, Table
from dl_mqtt_clients.cli.main import COMMANDS

_HEAD: Final = """\
# The command `fedlearn`

Written by `python -m dl_mqtt_clients.cli.reference > docs/reference/cli.md` from the commands themselves.

A setting can be given by `--set section.field=value`, by an environment variable `FEDLEARN_SECTION__FIELD`, or in the
configuration file; the first of these that says something wins. An option that names a field in brackets stands for
that field. `fedlearn config example` explains them all.

Tables and JSON go to the standard output, logs and errors to the standard error. Exit codes:

| code | meaning |
|---|---|
| 0 | done; also a service that was told to stop by SIGTERM, SIGINT or SIGHUP, once it has saved and said goodbye |
| 1 | it did not work; one line says why |
| 2 | wrong configuration or usage; every mistake is a line |
| 3 | another process runs under the same name |
| 130 | interrupted |
"""


def reference() -> str:
    """The whole page, in Markdown."""
    return "\n".join([_HEAD, *_commands(COMMANDS, "fedlearn")])


def _commands(table: Table, prefix: str) -> Iterator[str]:
    for name, entry in table.items():
        if isinstance(entry, Group):
            yield from _commands(entry.commands, f"{prefix} {name}")
        else:
            yield from _command(entry.load(name), f"{prefix} {name}")


def _command(command: Any, path: str) -> Iterator[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    yield f"## {path}\n"
    yield f"{command.help}\n"
    if command.epilog:
        yield f"```sh\n{command.epilog.removeprefix(EXAMPLE).strip()}\n```\n"
    yield "| option | meaning | default |\n|---|---|---|"
    yield from (f"| `{_name(p)}` | {_meaning(p)} | {_default(p)} |" for p in [*arguments, *options])
    yield ""


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper().replace("|", r"\|")
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    return names if parameter.is_flag else f"{names} {parameter.metavar or parameter.name.upper()}"


def _default(parameter: Any) -> str:
    value = parameter.default
    if parameter.required:
        return "required"
    return "" if value is None or value is False else f"`{value}`"


def _meaning(parameter: Any) -> str:
    variable = f" Also by the environment variable `{parameter.envvar}`." if parameter.envvar else ""
    return (parameter.help or "").replace("|", r"\|") + variable


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(reference())
