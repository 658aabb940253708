"""`fedlearn send`."""

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json, printable

if TYPE_CHECKING:
    from dl_mqtt_clients.wire.messages import Answer


class Word(enum.StrEnum):
    START = "start"
    PAUSE = "pause"
    STOP = "stop"
    ROUND = "round"
    RESCALE = "rescale"
    RELEASE = "release"


def send(
    word: Annotated[
        Word,
        typer.Argument(
            help="start opens rounds again, pause opens none, stop ends the manager, round opens one now, rescale "
            "agrees on a new scaler, release lets into the training windows what was kept out of them."
        ),
    ],
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Tell the manager what to do: start, pause, stop, round, rescale or release.

    Waits for the manager's answer; the exit code is 1 when it refuses, or when none answers in time.

    Example: fedlearn send pause
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    from dl_mqtt_clients.cli.asking import ask  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.cli.conversation import Conversation  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.messages import Command  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.topics import Topics  # noqa: PLC0415 - the same

    with Conversation(settings, timeout_s=timeout) as talk:
        answer = ask(talk, Topics(settings.federation.name), Command(command=word.value))
    tell(word.value, answer, json=json)


def tell(command: str, answer: "Answer", *, json: bool) -> None:
    """Exit code 1 when the manager refused."""
    if json:
        print_json({"command": command, "ok": answer.ok, "message": answer.message})
    else:
        typer.echo(f"{command}: {'done' if answer.ok else 'refused'} ({printable(answer.message)})")
    if not answer.ok:
        raise typer.Exit(1)
