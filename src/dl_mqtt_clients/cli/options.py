"""Options that commands share, and the settings they make.

An option such as `--broker` stands for one field; `--set` reaches every field.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dl_mqtt_clients.errors import ConfigurationError

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings

DEFAULT_CONFIG: Final = Path("configuration/federated_learning/federated_learning.yaml")

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        envvar="FEDLEARN_CONFIG",
        metavar="FILE",
        help=f"Configuration file (default: {DEFAULT_CONFIG}, if it exists).",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="SECTION.FIELD=VALUE", help="Change any setting; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON, and nothing else, to the standard output.")]

Broker = Annotated[str | None, typer.Option("--broker", metavar="URL", help="Federation broker (broker.url).")]
DataBroker = Annotated[
    str | None,
    typer.Option("--data-broker", metavar="URL", help="Broker of readings and scores (data_broker.url)."),
]
Federation = Annotated[str | None, typer.Option("--federation", metavar="NAME", help="Federation (federation.name).")]
Node = Annotated[str | None, typer.Option("--node", metavar="ID", help="Name of this node (node.id).")]
State = Annotated[
    str | None, typer.Option("--state", metavar="DIR", help="Folder of what survives a restart (node.state_dir).")
]
Artifacts = Annotated[
    str | None, typer.Option("--artifacts", metavar="DIR", help="Folder of models for people (artifacts.dir).")
]
Backend = Annotated[
    str | None, typer.Option("--backend", metavar="NAME", help="jax, tensorflow or torch (learning.backend).")
]
LogLevel = Annotated[
    str | None, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error (log.level).")
]
LogFormat = Annotated[str | None, typer.Option("--log-format", metavar="FORMAT", help="text or json (log.format).")]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="NAME", help="keras, or onnx without Keras (predictor.runtime).")
]
ModelFile = Annotated[
    str | None,
    typer.Option("--model", metavar="FILE", help="Score with this .onnx file, not the federation's (predictor.file)."),
]
Source = Annotated[
    str | None,
    typer.Option("--source", metavar="KIND", help="synthetic, beth, nsl_kdd, table or arrays (data.source)."),
]
Data = Annotated[str | None, typer.Option("--data", metavar="PATH", help="File or folder of the data set (data.path).")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, max=3600.0, metavar="SECONDS", help="Longest wait.")]

FIELDS: Final = {  # what each option stands for; `_` is written `-`
    "broker": "broker.url",
    "data_broker": "data_broker.url",
    "federation": "federation.name",
    "node": "node.id",
    "state": "node.state_dir",
    "artifacts": "artifacts.dir",
    "backend": "learning.backend",
    "log_level": "log.level",
    "log_format": "log.format",
    "runtime": "predictor.runtime",
    "model": "predictor.file",
    "source": "data.source",
    "data": "data.path",
    "rounds": "rounds.count",
    "rate": "generator.rate",
    "nodes": "generator.nodes",
    "duration": "generator.duration_s",
    "part": "generator.part",
}


def config_file(given: Path | None) -> Path | None:
    """The file to read: the given one, or the default one where it exists."""
    return given or (DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None)


def settings(config: Path | None, sets: list[str] | None, **given: object) -> "Settings":
    """The settings of file, environment and options, `given` by the names of FIELDS; an option wins over `--set`.

    ConfigurationError lists all mistakes.
    """
    from dl_mqtt_clients.config import load_settings  # noqa: PLC0415 - pydantic takes its time

    short = {name: value for name, value in given.items() if value is not None}
    overrides = [*(sets or ()), *(f"{FIELDS[name]}={value}" for name, value in short.items())]
    try:
        return load_settings(config_file(config), overrides=overrides)
    except ConfigurationError as error:
        raise ConfigurationError([_by_flag(mistake, short) for mistake in error.mistakes]) from error


def _by_flag(mistake: str, names: Iterable[str]) -> str:
    """Name the option that was really written: `(--broker)` for `(--set broker.url)`."""
    for name in names:
        written = f"(--set {FIELDS[name]})"
        if mistake.endswith(written):
            return mistake.removesuffix(written) + f"(--{name.replace('_', '-')})"
    return mistake
