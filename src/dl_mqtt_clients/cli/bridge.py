"""`fedlearn bridge`."""

from pathlib import Path
from typing import Annotated

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_json
from dl_mqtt_clients.errors import ConfigurationError


def bridge(
    site: Annotated[str, typer.Argument(metavar="SITE", help="Name of the site.")],
    nodes: Annotated[str, typer.Option("--nodes", metavar="ID,ID", help="Ids of the site's nodes.")],
    *,
    broker: options.Broker = None,
    federation: options.Federation = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write Mosquitto's configuration of a bridge from a site's own broker to the federation's.

    The configured broker, with its user, password and certificates, is the centre. Add the lines to the site's
    mosquitto.conf. Only what the site's nodes need crosses, each topic in one direction.

    Example: fedlearn bridge north --nodes press-1,press-2 --broker mqtts://centre.example
    """
    settings = options.settings(config, sets, broker=broker, federation=federation)
    from dl_mqtt_clients.wire.bridge import Bridge  # noqa: PLC0415 - takes its time
    from dl_mqtt_clients.wire.topics import is_name  # noqa: PLC0415 - the same

    ids = [name.strip() for name in nodes.split(",")]
    mistakes = [
        f"{what}: expected 1 to 64 of the characters A-Z a-z 0-9 _ -. Received: {name!r}"
        for what, name in [("SITE", site), *(("--nodes", name) for name in ids)]
        if not is_name(name)
    ]
    if mistakes:
        raise ConfigurationError(mistakes)
    centre = settings.broker
    lines = Bridge(
        federation=settings.federation.name, site=site, nodes=ids, host=centre.host, port=centre.port,
        username=centre.username, password=centre.read_password(), tls=centre.tls, ca_file=_path(centre.ca_file),
        cert_file=_path(centre.cert_file), key_file=_path(centre.key_file),
    ).configuration()  # fmt: skip
    if json:
        print_json({"site": site, "lines": lines.splitlines()})
    else:
        typer.echo(lines, nl=False)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
