"""`fedlearn send`."""

import enum
import secrets
from typing import TYPE_CHECKING, Annotated

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json, printable
from dl_mqtt_clients.errors import TransportError

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.wire.messages import Answer


class Word(enum.StrEnum):
    START = "start"
    PAUSE = "pause"
    STOP = "stop"


def send(
    word: Annotated[Word, typer.Argument(help="start opens rounds again, pause opens none, stop ends the manager.")],
    *,
    timeout: options.Timeout = 5.0,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Tell the manager to start, pause or stop.

    Waits for the manager's answer; the exit code is 1 when it refuses, or when none answers in time.

    Example: fedlearn send pause
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    answer = _ask(settings, word, timeout_s=timeout)
    if json:
        print_json({"command": word.value, "ok": answer.ok, "message": answer.message})
    else:
        typer.echo(f"{word.value}: {'done' if answer.ok else 'refused'} ({printable(answer.message)})")
    if not answer.ok:
        raise typer.Exit(1)


def _ask(settings: "Settings", word: Word, *, timeout_s: float) -> "Answer":
    """The manager's answer. TransportError when there is none within the time."""
    from dl_mqtt_clients.cli.conversation import Conversation  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.wire.messages import Answer, Command, decode, encode  # noqa: PLC0415 - the same
    from dl_mqtt_clients.wire.topics import Topics  # noqa: PLC0415 - the same

    topics, correlation = Topics(settings.federation.name), secrets.token_bytes(16)
    with Conversation(settings, timeout_s=timeout_s) as talk:
        here = topics.answer(talk.name)
        talk.transport.subscribe(here)
        talk.transport.publish(
            topics.command, encode(Command(command=word.value)), response_topic=here, correlation=correlation
        )
        for delivery in talk.deliveries():
            if delivery.topic == here and delivery.correlation == correlation:
                return decode(delivery.payload, Answer)
        raise TransportError(
            f"{word.value}: expected an answer within {timeout_s:g} s. Received: none"
            f" (is a manager of federation {settings.federation.name!r} at {talk.place}?)"
        )
