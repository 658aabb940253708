"""`fedlearn model build`."""

from typing import TYPE_CHECKING, Any

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.services.base_model import BaseModel


def build(
    *,
    source: options.Source = None,
    data: options.Data = None,
    artifacts: options.Artifacts = None,
    backend: options.Backend = None,
    config: options.Config = None,
    sets: options.Set = None,
    log_level: options.LogLevel = None,
    json: options.Json = False,
) -> None:
    """Make a federation's base model and its scaler.

    Fits the scaler to the training part of the data set, makes the untrained model, writes both to artifacts/model,
    and shows what the model is and how well it does before it has learnt anything.

    Example: fedlearn model build --source synthetic --set model.hidden=64,16,64
    """
    settings = options.settings(
        config, sets, source=source, data=data, artifacts=artifacts, backend=backend, log_level=log_level
    )
    from dl_mqtt_clients.cli.logs import set_up_logs  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.services.base_model import make_base_model, save_base_model  # noqa: PLC0415 - the same

    set_up_logs(settings.log)
    base = make_base_model(settings)
    facts = _facts(settings, base, str(save_base_model(settings, base)))
    if json:
        print_json(facts)
        return
    from dl_mqtt_clients.learning.keras_file import summary_of  # noqa: PLC0415 - imports Keras

    typer.echo(summary_of(base.model.core))
    print_facts(_lines(facts))


def _facts(settings: "Settings", base: "BaseModel", folder: str) -> dict[str, Any]:
    from pathlib import Path  # noqa: PLC0415

    from dl_mqtt_clients.wire.weights import nbytes, update_positions  # noqa: PLC0415

    model = base.model
    return {
        "folder": folder,
        "task": model.task,
        "data": settings.data.source,
        "features": list(model.features),
        "parameters": model.parameters,
        "weights_bytes": (Path(folder) / "weights.safetensors").stat().st_size,
        "update_bytes": nbytes([model.variables[position] for position in update_positions(model.variables)]),
        "scaled_on": base.scaled_on,
        "tested_on": base.tested_on,
        "auroc": base.auroc,
        "average_precision": base.average_precision,
    }


def _lines(facts: dict[str, Any]) -> list[tuple[str, object]]:
    return [
        ("task", facts["task"]),
        ("features", len(facts["features"])),
        ("parameters", f"{facts['parameters']:,} with the scaler's"),
        ("bytes", f"{facts['weights_bytes']:,} as a file, {facts['update_bytes']:,} an update"),
        ("scaler", f"fitted to {facts['scaled_on']:,} rows of {facts['data']}"),
        ("baseline AUROC", _measured(facts, "auroc")),
        ("baseline average precision", _measured(facts, "average_precision")),
        ("written to", facts["folder"]),
    ]


def _measured(facts: dict[str, Any], name: str) -> str:
    if facts[name] is None:
        return "unknown: the test part has no labels of both kinds"
    return f"{facts[name]:.4f} on {facts['tested_on']:,} labelled rows of the test part"
