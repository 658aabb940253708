"""What commands write: JSON or tables on the standard output, everything else on the standard error."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_COLUMNS: Final = 160  # width of tables that go to a file or pipe


def print_json(value: object) -> None:
    """One JSON document; what is not a number becomes null."""
    import msgspec  # noqa: PLC0415 - costs every start otherwise

    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def console() -> "Console":
    from rich.console import Console  # noqa: PLC0415 - costs every start otherwise

    return Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PLAIN_COLUMNS)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; columns whose name begins with `>` are aligned to the right."""
    from rich import box  # noqa: PLC0415 - costs every start otherwise
    from rich.table import Table  # noqa: PLC0415 - costs every start otherwise
    from rich.text import Text  # noqa: PLC0415 - costs every start otherwise

    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(shown(cell))) for cell in row))
    console().print(table)


def print_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Name and value, a line each."""
    lines = [(name, printable(shown(value))) for name, value in facts]
    width = max((len(name) for name, _ in lines), default=0)
    for name, value in lines:
        typer.echo(f"{name:<{width}}  {value}")


def shown(value: Any) -> str:
    """A cell: nothing for None, four digits of a fraction, thousands of a count set apart."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def printable(text: str) -> str:
    """One line without control characters: text from the network must not steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
