"""A version to export: from a base model's folder, a manager's state, or what a predictor keeps."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ModelError, WireError
from dl_mqtt_clients.wire.messages import Manifest, decode
from dl_mqtt_clients.wire.weights import Buffer, join

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

_FILES = {"architecture": "architecture.json", "weights": "weights.safetensors", "frozen": "frozen.safetensors"}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A version with its values. `manifest` is None for a base model, which belongs to no federation yet."""

    model: "FederatedModel"
    manifest: Manifest | None

    @property
    def threshold(self) -> float | None:
        return self.manifest.threshold if self.manifest else None

    def facts(self) -> dict[str, str]:
        """What is known of it, as an exported file's metadata; see `model_file`."""
        named = ("version", "number", "round", "lineage", "generation")
        return {name: str(getattr(self.manifest, name)) for name in named} if self.manifest else {}


def read_version(folder: Path, settings: Settings, *, version: str = "") -> Held:
    """The version to export. Keras's backend must be chosen.

    Args:
        folder: a manager's state folder (or the one above it), a predictor's, or a base model's.
        settings: `model.max_parameters` and `model.custom_modules` count.
        version: of a manager: its number, or how its hash begins; empty: the one in production, or else the newest.

    Raises:
        ModelError: nothing of this kind is there, or it does not fit together.
        StateError: a manager's state cannot be read.

    """
    for place in (folder / "manager", folder):
        if (place / "stages.json").is_file():
            store = Store(place)
            manifest = _chosen(store, version)
            return _held(
                {n: store.blob(manifest.blobs[n].sha256) for n in _FILES if n in manifest.blobs}, manifest, settings
            )
    if version:
        raise ModelError(f"{folder}: expected a manager's state folder, to find version {version}. Received: another")
    try:
        blobs = {name: (folder / file).read_bytes() for name, file in _FILES.items() if (folder / file).is_file()}
        record = folder / "production.json"
        known = decode(record.read_bytes(), Manifest) if record.is_file() else None
    except (OSError, WireError) as error:
        raise ModelError(f"{folder}: cannot be read: {error}") from error
    if not {"architecture", "weights"} <= set(blobs):
        raise ModelError(
            f"{folder}: expected the state folder of a manager or predictor, or a base model. Received: none"
        )
    return _held(blobs, known, settings)


def _chosen(store: Store, version: str) -> Manifest:
    stages = store.stages
    if not version:
        newest = stages.production or stages.current
        if newest is None:
            raise ModelError(f"{store.folder}: expected a version. Received: none yet")
        return newest
    published = [m for m in (stages.production, stages.current) if m]  # knows more than the first record
    for manifest in (*published, *store.versions()):
        if str(manifest.number) == version or (len(version) >= 6 and manifest.version.startswith(version)):
            return manifest
    raise ModelError(
        f"{store.folder}: expected the number of a kept version, or how its hash begins. Received: {version}"
    )


def _held(blobs: dict[str, bytes], manifest: Manifest | None, settings: Settings) -> Held:
    from dl_mqtt_clients.learning.architecture import rebuild  # noqa: PLC0415 - imports Keras

    limits = settings.model
    model = rebuild(blobs["architecture"], max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)
    if manifest is not None:
        model.take_roles(manifest.variables)
    values: dict[str, Buffer] = {name: data for name, data in blobs.items() if name != "architecture"}
    try:
        model.set_weights(join(values, model.variables))
    except WireError as error:
        raise ModelError(f"weights: {error}") from error
    return Held(model=model, manifest=manifest)
