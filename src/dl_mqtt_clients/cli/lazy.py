"""Commands that are imported when they are called: `fedlearn --help` lists them without.

A command is a function with typed options. Its docstring is its help; what follows `Example:` in it is shown last.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

EXAMPLE = "Example:"


@dataclass(frozen=True, slots=True)
class Command:
    """A command's place, `module:function`, and the first sentence of its help."""

    place: str
    summary: str

    def load(self, name: str) -> Any:
        """Import it and read its options from the function's signature."""
        module, _, function = self.place.partition(":")
        call = getattr(importlib.import_module(module), function)
        text, _, example = inspect.cleandoc(call.__doc__ or "").partition(f"\n\n{EXAMPLE}")
        text = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
        app = typer.Typer(add_completion=False)
        epilog = f"{EXAMPLE} {' '.join(example.split())}" if example else None
        app.command(name, help=text, epilog=epilog, no_args_is_help=False)(call)
        return get_command(app)


@dataclass(frozen=True, slots=True)
class Group:
    """Commands under a common name."""

    summary: str
    commands: Mapping[str, Command]


Table = Mapping[str, Command | Group]


class LazyGroup(TyperGroup):
    """Knows its commands from `table`; imports the one that is called."""

    table: ClassVar[Table] = {}
    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
        return list(self.table)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
        entry = self.table.get(cmd_name)
        if isinstance(entry, Group):
            return group(entry.commands)(name=cmd_name, help=entry.summary, no_args_is_help=True)
        if entry is None or self._listing:
            return entry and TyperCommand(cmd_name, help=entry.summary)
        return entry.load(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self._listing = True
        super().format_help(ctx, formatter)
        self._listing = False

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.commands = dict.fromkeys(self.table)  # type: ignore[assignment]  # only the names: to suggest one for a misspelt one
        return super().resolve_command(ctx, args)


def group(table: Table) -> type[LazyGroup]:
    """A class of groups with these commands."""
    return type("Commands", (LazyGroup,), {"table": table})
