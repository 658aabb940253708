"""`fedlearn`: what there is to call, and what an error looks like.

Exit codes: 0 done, also when told to stop · 1 it did not work · 2 wrong configuration or usage · 3 another process
runs under the same name · 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from dl_mqtt_clients.cli.lazy import Command, Group, Table, group
from dl_mqtt_clients.errors import ConfigurationError, DuplicateInstanceError, FederatedLearningError

_ROOM: Final = "dl_mqtt_clients.cli"

COMMANDS: Final[Table] = {
    "demo": Command(f"{_ROOM}.demo:demo", "A whole federation on this machine, live, and what it learnt."),
    "broker": Command(f"{_ROOM}.broker:broker", "Run an MQTT broker for this machine."),
    "manager": Command(f"{_ROOM}.services:manager", "Run the manager: it announces rounds and merges updates."),
    "train": Command(f"{_ROOM}.services:train", "Run a trainer: it learns from this node's readings."),
    "predict": Command(f"{_ROOM}.services:predict", "Run a predictor: it scores this node's readings."),
    "generate": Command(f"{_ROOM}.services:generate", "Replay a data set as live streams of readings."),
    "model": Group(
        "Make and look at models.",
        {
            "build": Command(f"{_ROOM}.model_build:build", "Make a federation's base model and its scaler."),
            "inspect": Command(f"{_ROOM}.model_inspect:inspect", "Show what a model, version or state folder holds."),
            "export": Command(
                f"{_ROOM}.model_export:export", "Write a version as an ONNX file, a LiteRT file or a SavedModel."
            ),
        },
    ),
    "config": Group(
        "Check and show the configuration.",
        {
            "check": Command(f"{_ROOM}.configuration:check", "Check the configuration and list every mistake."),
            "show": Command(f"{_ROOM}.configuration:show", "Show every setting's value and where it comes from."),
            "example": Command(f"{_ROOM}.configuration:example", "Print a configuration file with all defaults."),
        },
    ),
    "status": Command(f"{_ROOM}.status:status", "Show a federation: its manager, nodes and latest rounds."),
    "health": Command(f"{_ROOM}.health:health", "Ask whether a service on this machine is well."),
    "bridge": Command(
        f"{_ROOM}.bridge:bridge",
        "Write Mosquitto's configuration of a bridge from a site's own broker to the federation's.",
    ),
    "send": Command(
        f"{_ROOM}.send:send", "Tell the manager what to do: start, pause, stop, round, rescale or release."
    ),
    "versions": Command(
        f"{_ROOM}.versions:versions",
        "Show the versions of the model: what made them, how good they are, what became of them.",
    ),
    "promote": Command(f"{_ROOM}.versions:promote", "Put a version into production, whatever the gate found."),
    "rollback": Command(f"{_ROOM}.versions:rollback", "Put an earlier version into production."),
    "diff": Command(f"{_ROOM}.versions:diff", "Show how much each variable of the model changed between two versions."),
}

app = typer.Typer(
    name="fedlearn",
    cls=group(COMMANDS),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Example: fedlearn demo",
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - only when asked

        typer.echo(version("dl-mqtt-clients"))
        raise typer.Exit


@app.callback(help="Federated learning for Keras on edge devices, over MQTT.")
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main(args: Sequence[str] | None = None) -> None:
    """The command's entry point; always ends in SystemExit."""
    try:
        app(args=None if args is None else list(args), prog_name="fedlearn")
    except (FederatedLearningError, OSError) as error:
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Say what is wrong, without a traceback (unless the log level is debug); the exit code."""
    import logging  # noqa: PLC0415 - costs every start otherwise

    logging.getLogger(__name__).debug("the error in full", exc_info=error)
    if isinstance(error, ConfigurationError):
        typer.echo("\n".join(error.mistakes), err=True)
        return 2
    text = str(error) if isinstance(error, FederatedLearningError) else f"{type(error).__name__}: {error}"
    typer.echo(f"fedlearn: {' '.join(text.split())}", err=True)
    return 3 if isinstance(error, DuplicateInstanceError) else 1


if __name__ == "__main__":
    main()
