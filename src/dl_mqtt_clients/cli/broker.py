"""`fedlearn broker`."""

import signal
import threading
from typing import Annotated

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json
from dl_mqtt_clients.cli.running import SIGNALS
from dl_mqtt_clients.errors import TransportError


def broker(
    *,
    host: Annotated[
        str,
        typer.Option("--host", metavar="HOST", help="Address to listen on; 0.0.0.0: every network of this machine."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="Port to listen on; 0: a free one.")
    ] = 1883,
    json: options.Json = False,
) -> None:
    """Run an MQTT broker for this machine.

    It speaks MQTT 5, lets everybody in, keeps nothing on disk, and prints its address once it answers. It is meant
    for a first try; Mosquitto is the broker for a fleet.

    Example: fedlearn broker --port 1883
    """
    wake = threading.Event()
    for number in (*SIGNALS, signal.SIGCHLD):  # SIGCHLD: the broker's process ended
        signal.signal(number, lambda _number, _frame: wake.set())
    from dl_mqtt_clients.transport.embedded import EmbeddedBroker  # noqa: PLC0415 - costs `--help` otherwise

    with EmbeddedBroker(host=host, port=port) as running:
        if json:
            print_json({"url": running.url, "pid": running.pid})
        else:
            typer.echo(running.url)
        wake.wait()
        if running.pid is None:
            raise TransportError(f"embedded broker at {running.url}: its process ended by itself")
