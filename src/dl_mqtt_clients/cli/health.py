"""`fedlearn health`: for health checks of Docker and people."""

from enum import StrEnum
from typing import Annotated

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json


class Role(StrEnum):
    """Services that have a pulse."""

    MANAGER = "manager"
    TRAINER = "trainer"
    PREDICTOR = "predictor"


def health(
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="manager, trainer or predictor.")],
    *,
    turned: Annotated[
        float, typer.Option("--turned", min=1.0, metavar="SECONDS", help="Longest time since its loop turned.")
    ] = 180.0,
    heard: Annotated[
        float,
        typer.Option("--heard", min=1.0, metavar="SECONDS", help="Longest time since it heard itself over the broker."),
    ] = 180.0,
    node: options.Node = None,
    state: options.State = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Ask whether a service on this machine is well.

    Well means: its loop turns, and it is connected. A service hears its own status through the broker every
    30 seconds, and notes it in its state folder; this command reads the note. Exit code 0: healthy; 1: not.

    Example: fedlearn health trainer --state state
    """
    settings = options.settings(config, sets, node=node, state=state)
    from dl_mqtt_clients.services.health import Health, folder_of  # noqa: PLC0415 - pydantic takes its time

    found = Health.read(folder_of(settings, role.value))
    healthy = found.turned_s <= turned and found.heard_s <= heard
    if json:
        print_json({"role": role.value, "healthy": healthy, "turned_s": found.turned_s, "heard_s": found.heard_s})
    else:
        typer.echo(
            f"{role.value}: {'healthy' if healthy else 'not healthy'}; its loop turned {_ago(found.turned_s)}, "
            f"it heard itself over the broker {_ago(found.heard_s)}"
        )
    raise typer.Exit(0 if healthy else 1)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < float("inf") else "never"
