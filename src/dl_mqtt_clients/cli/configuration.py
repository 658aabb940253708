"""`fedlearn config check | show | example`."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json
from dl_mqtt_clients.errors import ConfigurationError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.config.mistakes import FieldPath

HIDDEN = "********"


Inventory = Annotated[
    Path | None, typer.Option("--inventory", metavar="FILE", help="Ansible inventory of the fleet, checked as well.")
]


def check(
    *,
    config: options.Config = None,
    inventory: Inventory = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Check the configuration and list every mistake.

    File, environment and options are read as every service reads them. Each mistake is one line with field, what was
    expected, what was received, and where; the exit code is then 2.

    Example: fedlearn config check --config federated_learning.yaml
    """
    mistakes = _mistakes(lambda: _check(config, sets))
    if inventory is not None:
        from dl_mqtt_clients.config.inventory import check_inventory  # noqa: PLC0415 - pydantic takes its time

        mistakes += _mistakes(lambda: check_inventory(inventory))
    if json:
        print_json({"file": _name(config), "ok": not mistakes, "mistakes": mistakes})
        raise typer.Exit(2 if mistakes else 0)
    if mistakes:
        raise ConfigurationError(mistakes)
    for name in (_name(config) or "defaults", *([str(inventory)] if inventory else [])):
        typer.echo(f"{name}: no mistakes")


def _check(config: Path | None, sets: list[str] | None) -> None:
    from dl_mqtt_clients.services.from_settings import check_rules  # noqa: PLC0415 - it takes its time

    check_rules(options.settings(config, sets))


def _mistakes(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except ConfigurationError as error:
        return error.mistakes
    return []


def show(*, config: options.Config = None, sets: options.Set = None, json: options.Json = False) -> None:
    """Show every setting's value and where it comes from.

    An option wins over the environment, which wins over the file, which wins over the default. Passwords are hidden.

    Example: fedlearn config show --set training.epochs=3
    """
    settings = options.settings(config, sets)
    if json:
        print_json(_tree(settings))
        return
    places = _places(config, sets)
    rows = [(".".join(map(str, path)), _text(value), places.get(path, "default")) for path, value in _values(settings)]
    width = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, place in rows:
        typer.echo(f"{name:<{width[0]}}  {value:<{min(width[1], 40)}}  {place}")


def example(*, json: options.Json = False) -> None:
    """Print a configuration file with all defaults.

    Every field is explained with its meaning, range and default.

    Example: fedlearn config example > federated_learning.yaml
    """
    from dl_mqtt_clients.config import Settings, render_settings  # noqa: PLC0415 - pydantic takes its time

    if json:
        print_json(_tree(Settings()))
    else:
        typer.echo(render_settings(), nl=False)


def _name(config: Path | None) -> str | None:
    file = options.config_file(config)
    return None if file is None else str(file)


def _values(settings: "Settings") -> Iterator[tuple["FieldPath", Any]]:
    """Path and value of every field, in the file's order; passwords hidden."""
    from dl_mqtt_clients.config.mistakes import leaves  # noqa: PLC0415 - pydantic takes its time

    for path, field in leaves(type(settings)):
        value: Any = settings
        for name in path:
            value = getattr(value, str(name))
        yield path, _visible(field, value)


def _visible(field: "FieldInfo", value: Any) -> Any:
    from dl_mqtt_clients.config.words import is_secret  # noqa: PLC0415 - pydantic takes its time

    if is_secret(field):
        return HIDDEN if value.get_secret_value() else ""
    return value


def _tree(settings: "Settings") -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*sections, name), value in _values(settings):
        inner = tree
        for section in sections:
            inner = inner.setdefault(str(section), {})
        inner[str(name)] = value
    return tree


def _places(config: Path | None, sets: list[str] | None) -> dict["FieldPath", str]:
    from dl_mqtt_clients.config.sources import (  # noqa: PLC0415 - pydantic takes its time
        from_environment,
        from_file,
        from_flags,
    )

    source = from_file(options.config_file(config)) + from_environment(os.environ) + from_flags(sets or ())
    return {path: place.text for path, place in source.places.items()}


def _text(value: Any) -> str:
    """As it is written in the file."""
    import json  # noqa: PLC0415 - costs `--help` otherwise

    return json.dumps(value, ensure_ascii=False)
