"""`fedlearn model inspect`: one reader for each kind of thing that holds a model, and how it is shown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dl_mqtt_clients.cli import options
from dl_mqtt_clients.cli.output import print_facts, print_json, print_table
from dl_mqtt_clients.errors import ModelError

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings
    from dl_mqtt_clients.wire.messages import Manifest, Variable

Facts = dict[str, Any]
SHOWN_ROWS: Final = 40  # of a scaler; --json has all


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="What to look at.")],
    *,
    backend: options.Backend = None,
    config: options.Config = None,
    sets: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show what a model, version or state folder holds.

    Takes a base model's folder (artifacts/model), a version's folder or version.json (artifacts/updated_model), a
    .keras file, or a manager's or predictor's state folder. Nothing in it is executed.

    Example: fedlearn model inspect artifacts/model
    """
    settings = options.settings(config, sets, backend=backend)
    facts = _read(path, settings)
    if json:
        print_json(facts)
    else:
        _print(facts)


def _read(path: Path, settings: "Settings") -> Facts:
    folder = path if path.is_dir() else path.parent
    if path.is_dir() and (path / "manager" / "stages.json").is_file():
        return _state(path / "manager")
    if path.is_dir() and (path / "stages.json").is_file():
        return _state(path)
    if path.name == "architecture.json" or (path.is_dir() and (path / "architecture.json").is_file()):
        return _base(folder, settings)
    if path.name == "version.json" or (path.is_dir() and (path / "version.json").is_file()):
        return _version(folder, settings)
    if path.suffix == ".keras":
        return {"kind": "keras", **_keras(path, settings)}
    received = "nothing there" if not path.exists() else "a folder of another kind" if path.is_dir() else "another file"
    raise ModelError(f"{path}: expected a model's, version's or state folder, or a .keras file. Received: {received}")


def _base(folder: Path, settings: "Settings") -> Facts:
    """A base model, or what a predictor keeps of the production model."""
    from dl_mqtt_clients.services.from_settings import use_backend_of  # noqa: PLC0415 - costs `--help` otherwise

    use_backend_of(settings)
    from dl_mqtt_clients.learning.files import load_base  # noqa: PLC0415 - imports Keras
    from dl_mqtt_clients.learning.keras_file import summary_of  # noqa: PLC0415 - imports Keras

    limits = settings.model
    model = load_base(folder, max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)
    return {
        "kind": "base",
        "path": str(folder),
        "task": model.task,
        "parameters": model.parameters,
        "summary": summary_of(model.core),
        "variables": _variables(model.variables),
        "scaler": model.scaler.rows(model.features),
        "files": _sizes(folder),
    }


def _keras(path: Path, settings: "Settings") -> Facts:
    from dl_mqtt_clients.services.from_settings import use_backend_of  # noqa: PLC0415 - costs `--help` otherwise

    use_backend_of(settings)
    from dl_mqtt_clients.learning.keras_file import (  # noqa: PLC0415 - imports Keras
        load_keras_file,
        summary_of,
        variables_of,
    )

    limits = settings.model
    model = load_keras_file(path, max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)
    return {
        "path": str(path),
        "parameters": int(model.count_params()),
        "summary": summary_of(model),
        "variables": _variables(variables_of(model)),
        "files": {path.name: path.stat().st_size},
    }


def _version(folder: Path, settings: "Settings") -> Facts:
    """A version's record, and the model beside it where there is one."""
    from dl_mqtt_clients.aggregation.files import read_json  # noqa: PLC0415 - costs `--help` otherwise

    record = read_json(folder / "version.json")
    if not isinstance(record, dict) or not isinstance(record.get("version"), str):
        raise ModelError(f"{folder / 'version.json'}: expected the record of a version. Received: another file")
    model = folder / "model.keras"
    beside = _keras(model, settings) if model.is_file() else {}
    return {"kind": "version", **beside, "path": str(folder), "version": record, "files": _sizes(folder)}


def _state(folder: Path) -> Facts:
    """The versions a manager keeps."""
    from dl_mqtt_clients.aggregation.store import Store  # noqa: PLC0415 - costs `--help` otherwise

    store = Store(folder)
    stages = {"global": store.stages.current, "production": store.stages.production}
    versions = [
        {
            "number": manifest.number,
            "version": manifest.version,
            "round": manifest.round,
            "base": manifest.base,
            "stages": [name for name, held in stages.items() if held and held.version == manifest.version],
            "bytes": sum(blob.bytes for blob in manifest.blobs.values()),
            "threshold": _published(manifest, *stages.values()).threshold,
            "metrics": _published(manifest, *stages.values()).metrics,
        }
        for manifest in store.versions()
    ]
    return {
        "kind": "state",
        "path": str(folder),
        "generation": store.generation,
        "serial": store.stages.serial,
        "versions": versions,
        "files": _sizes(folder),
    }


def _published(manifest: "Manifest", *stages: "Manifest | None") -> "Manifest":
    """What was published last of this version knows more than its first record."""
    return next((held for held in reversed(stages) if held and held.version == manifest.version), manifest)


def _variables(variables: "Sequence[Variable]") -> list[Facts]:
    return [
        {"position": index, "role": v.role, "shape": list(v.shape), "dtype": v.dtype, "path": v.path}
        for index, v in enumerate(variables)
    ]


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): file.stat().st_size for file in files}


# ---- for people ----------------------------------------------------------------------------------------------


def _print(facts: Facts) -> None:
    if "summary" in facts:
        typer.echo(facts["summary"])
    if "variables" in facts:
        rows = ([v["position"], v["role"], _shape(v["shape"]), v["dtype"], v["path"]] for v in facts["variables"])
        print_table("Variables", (">position", "role", "shape", "dtype", "path"), rows)
    if "scaler" in facts:
        _print_scaler(facts["scaler"])
    if "version" in facts:
        print_facts(_flat(facts["version"]))
    if "versions" in facts:
        _print_versions(facts)
    kinds = ("path", "kind", "task", "parameters")
    files = facts["files"]
    print_facts(
        [(name, facts[name]) for name in kinds if name in facts]
        + [("files", f"{len(files)} with {sum(files.values()):,} bytes")]
    )


def _print_scaler(rows: Sequence[Facts]) -> None:
    print_table(
        "Scaler: (x - offset) × scale",
        ("feature", ">offset", ">scale", "vocabulary"),
        ([row["name"], row.get("offset", ""), row.get("scale", ""), _vocabulary(row)] for row in rows[:SHOWN_ROWS]),
    )
    if len(rows) > SHOWN_ROWS:
        typer.echo(f"… and {len(rows) - SHOWN_ROWS} more (--json has all)\n")


def _vocabulary(row: Facts) -> str:
    return f"{len(row['codes'])} of at most {row['size']} values" if "codes" in row else ""


def _print_versions(facts: Facts) -> None:
    columns = (">number", "version", ">round", "stages", ">bytes", ">threshold", ">loss", ">AUROC")
    rows = (
        (
            v["number"], v["version"][:12], v["round"], ", ".join(v["stages"]), v["bytes"],
            v["threshold"], v["metrics"].loss, v["metrics"].auroc,
        )
        for v in facts["versions"]
    )  # fmt: skip
    print_table(f"Versions of generation {facts['generation']}", columns, rows)


def _flat(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Nested facts as dotted names."""
    facts: list[tuple[str, object]] = []
    for name, value in record.items():
        if isinstance(value, Mapping):
            facts += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            facts.append((f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            facts.append((f"{prefix}{name}", str(value) if isinstance(value, int) else value))
    return facts


def _shape(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape))}]"
