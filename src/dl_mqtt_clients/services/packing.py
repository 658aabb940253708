"""What a fit came to, as it leaves and as it stays: the update, and the node's own values that count with it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dl_mqtt_clients.services.own_values import CONTROL, PERSONAL, RESIDUAL, OwnValues, personal_positions
from dl_mqtt_clients.wire.codecs import Encoded, as_changes, codec
from dl_mqtt_clients.wire.controls import control_positions, control_variables, with_controls
from dl_mqtt_clients.wire.messages import Manifest
from dl_mqtt_clients.wire.weights import encode, update_positions

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.fit import FitResult

Arrays = Sequence[np.ndarray]


def pack(
    result: "FitResult", base: Arrays, *, manifest: Manifest, own: OwnValues, codec_name: str, seed: int
) -> tuple[bytearray, dict[str, bytes]]:
    """The update (with the change of the node's control, if the fit had one), and what to set aside, by name."""
    shared = update_positions(manifest.variables)
    change = [np.asarray(result.weights[p], "float32") - np.asarray(base[p], "float32") for p in shared]
    beside = [] if result.controls is None else result.controls.change
    described = manifest.variables if result.controls is None else with_controls(manifest.variables)
    variables, positions = as_changes(described), update_positions(described)
    left = own.read(RESIDUAL, manifest, as_changes(manifest.variables), shared)
    encoded = codec(codec_name).encode(
        [*change, *beside],
        variables,
        positions,
        seed=seed,
        residual=None if left is None else [*left, *(np.zeros_like(c) for c in beside)],
    )
    values = _personal(manifest, result) | _residual(encoded, shared, had_one=left is not None)
    if result.controls is not None:
        sent = codec(codec_name).decode(encoded.data, variables, positions)[len(shared) :]
        values[CONTROL] = _next_control(own, manifest, sent)
    return encoded.data, values


def own_control(own: OwnValues, manifest: Manifest) -> list[np.ndarray]:
    """c_i: zeros before this node's first update counted."""
    positions = control_positions(manifest.variables)
    held = own.read(CONTROL, manifest, with_controls(manifest.variables), positions)
    return [np.zeros(v.shape, np.float32) for v in control_variables(manifest.variables)] if held is None else held


def _next_control(own: OwnValues, manifest: Manifest, sent: Arrays) -> bytes:
    """c_i plus what the manager hears, so that its sum stays that of the nodes; a later change makes up the rest."""
    held = own_control(own, manifest)
    moved = [np.asarray(c_i + d, np.float32) for c_i, d in zip(held, sent, strict=True)]
    return encode(moved, control_positions(manifest.variables))


def _personal(manifest: Manifest, result: "FitResult") -> dict[str, bytes]:
    positions = personal_positions(manifest)
    return {PERSONAL: encode([result.weights[p] for p in positions], positions)} if positions else {}


def _residual(encoded: Encoded, shared: Sequence[int], *, had_one: bool) -> dict[str, bytes]:
    """Of the weights' change alone: what was left out of a control is in its next change anyway."""
    if encoded.residual is not None:
        return {RESIDUAL: encode(encoded.residual[: len(shared)], shared)}
    return {RESIDUAL: b""} if had_one else {}
