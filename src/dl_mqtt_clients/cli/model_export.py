"""`fedlearn model export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="State folder of a manager, or another (see above).")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="FILE.onnx, FILE.tflite, or a folder's name.")],
    *,
    version: Annotated[
        str, typer.Option("--version", metavar="N|HASH", help="One of a manager's versions; default: in production.")
    ] = "",
    threshold: Annotated[
        float | None, typer.Option("--threshold", metavar="SCORE", help="Another threshold than the version's.")
    ] = None,
    backend: options.Backend = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Write a version as an ONNX file, a LiteRT file or a SavedModel.

    The file takes raw readings and gives score and verdict: scaler and threshold are inside. FOLDER is the state folder
    of a manager or predictor, or a base model's (artifacts/model). TARGET's ending says the format: .onnx, .tflite for
    LiteRT, none for a SavedModel; the last two need TensorFlow. The file is kept only if it computes what Keras does.

    Example: fedlearn model export state/manager model.onnx
    """
    from dl_mqtt_clients.learning.export_format import format_of  # noqa: PLC0415 - costs `--help` otherwise

    kind = format_of(target)
    chosen = backend or ("tensorflow" if kind != "onnx" else None)
    settings = options.settings(config, sets, backend=chosen)
    facts = {"file": str(target), "format": kind, **_export(folder, target, settings, version, threshold)}
    if json:
        print_json(facts)
    else:
        print_facts(_lines(facts))


def _export(folder: Path, target: Path, settings: "Settings", version: str, threshold: float | None) -> dict[str, Any]:
    from dl_mqtt_clients.services.exporting import read_version  # noqa: PLC0415 - costs `--help` otherwise
    from dl_mqtt_clients.services.from_settings import use_backend_of  # noqa: PLC0415 - the same

    use_backend_of(settings)
    from dl_mqtt_clients.learning.export_file import export_file  # noqa: PLC0415 - imports Keras

    held = read_version(folder, settings, version=version)
    threshold = held.threshold if threshold is None else threshold
    difference = export_file(
        held.model, target, threshold=threshold, facts=held.facts(), custom_modules=settings.model.custom_modules
    )
    return {
        "bytes": sum(f.stat().st_size for f in ([target] if target.is_file() else target.rglob("*")) if f.is_file()),
        "task": held.model.task,
        "features": held.model.n_features,
        "number": held.manifest.number if held.manifest else None,
        "version": held.manifest.version if held.manifest else None,
        "threshold": threshold,
        "difference": difference,
    }


def _lines(facts: dict[str, Any]) -> list[tuple[str, object]]:
    known = facts["number"] is not None
    return [
        ("version", f"{facts['number']} ({facts['version'][:12]})" if known else "a base model"),
        ("takes", f"raw readings [batch, {facts['features']}], float32"),
        ("threshold", "none: the file gives no verdict" if facts["threshold"] is None else facts["threshold"]),
        ("differs from Keras by", f"{facts['difference']:.1g} at most"),
        ("written to", f"{facts['file']} ({facts['format']}, {facts['bytes']:,} bytes)"),
    ]
