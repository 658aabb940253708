"""A federation's base model in a folder.

architecture.json     what nodes rebuild the model from; no code
weights.safetensors   all variables by position, the scaler's first
scaler.json           the scaler in words: a row a feature
model.keras           the same for people and plain Keras; takes raw readings
"""

from collections.abc import Sequence
from pathlib import Path

from dl_mqtt_clients.errors import ModelError, TransferError
from dl_mqtt_clients.learning.architecture import rebuild
from dl_mqtt_clients.learning.model import FederatedModel
from dl_mqtt_clients.wire.weights import decode, encode


def save_base(model: FederatedModel, folder: Path) -> None:
    """Write all four files."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / "model.keras")
    (folder / "scaler.json").write_text(model.scaler.to_json(model.features), encoding="utf-8")
    (folder / "weights.safetensors").write_bytes(encode(model.get_weights()))
    (folder / "architecture.json").write_bytes(model.architecture)


def load_base(
    folder: Path, *, max_parameters: int, custom_modules: Sequence[str] = (), personal: Sequence[str] = ()
) -> FederatedModel:
    """Read it back from architecture and weights; see `rebuild`. ModelError: a file is missing, damaged, or unfit."""
    try:
        architecture = (folder / "architecture.json").read_bytes()
        data = (folder / "weights.safetensors").read_bytes()
    except OSError as error:
        raise ModelError(f"{folder}: expected architecture.json and weights.safetensors. {error}") from error
    model = rebuild(architecture, max_parameters=max_parameters, custom_modules=custom_modules, personal=personal)
    try:
        model.set_weights(decode(data, model.variables))
    except TransferError as error:
        raise ModelError(f"{folder / 'weights.safetensors'}: {error}") from error
    return model
