"""What a trainer keeps for itself beside its updates: personal variables, SCAFFOLD's control, what a codec left out.

    own/<generation>-<lineage>/<name>.safetensors           of accepted updates: these count
    own/<generation>-<lineage>/<hash>/<name>.safetensors    of the update of this hash, until its receipt

A crash between two renames does no harm: the update is still on offer, gets the same receipt, and the rest follows.
"""

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from dl_mqtt_clients.aggregation.files import sync_folder, write_atomically
from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.messages import Manifest, Variable
from dl_mqtt_clients.wire.weights import check_finite, decode, header_limit, nbytes

log = logging.getLogger(__name__)

PERSONAL: Final = "personal"
RESIDUAL: Final = "residual"
CONTROL: Final = "control"  # SCAFFOLD's c_i
LOOK_EVERY_S: Final = 1.0  # for newer values, at most


class OwnValues:
    """In a trainer's folder; its predictor reads there. An empty file stands for no values."""

    def __init__(self, trainer: Path) -> None:
        self._folder = trainer / "own"

    def set_aside(self, update: str, *, generation: int, lineage: str, values: Mapping[str, bytes]) -> None:
        """Make durable what is to count with this update (a hash), in place of what others had set aside. OSError."""
        for waiting in self._folder.glob("*/*/"):
            shutil.rmtree(waiting)
        for name, data in values.items():
            write_atomically(self._lineage(generation, lineage) / update / _file(name), data)

    def is_set_aside(self, update: str) -> bool:
        return any(self._folder.glob(f"*/{update}/"))

    def adopt(self, update: str) -> None:
        """The update was accepted: what was set aside with it counts, and nothing of another lineage any more."""
        for waiting in list(self._folder.glob(f"*/{update}/")):
            for file in waiting.iterdir():
                file.replace(waiting.parent / file.name)
            sync_folder(waiting.parent)
            shutil.rmtree(waiting)
            for other in self._folder.iterdir():
                if other != waiting.parent:
                    shutil.rmtree(other)

    def read(
        self, name: str, manifest: Manifest, variables: Sequence[Variable], positions: Sequence[int]
    ) -> list[np.ndarray] | None:
        """Values of these positions, as they count in the manifest's lineage; None when there are none.

        A file that is not right counts as none.
        """
        path = self.path(name, manifest)
        try:
            return _read(path, variables, positions)
        except FileNotFoundError:
            return None
        except (OSError, TransferError) as error:
            log.warning("%s: cannot be read, begun anew: %s", path, error)
            return None

    def put_into(self, weights: Sequence[np.ndarray], manifest: Manifest) -> list[np.ndarray]:
        """The version's weights with this node's own values of its personal variables, as far as there are any."""
        positions = personal_positions(manifest)
        own = self.read(PERSONAL, manifest, manifest.variables, positions) if positions else None
        mixed = list(weights)
        for position, value in zip(positions, own or (), strict=False):
            mixed[position] = value
        return mixed

    def path(self, name: str, manifest: Manifest) -> Path:
        return self._lineage(manifest.generation, manifest.lineage) / _file(name)

    def _lineage(self, generation: int, lineage: str) -> Path:
        return self._folder / f"{generation}-{lineage}"


class Newer:
    """Whether a file has changed since `taken`: looked at no more often than every `LOOK_EVERY_S`."""

    def __init__(self) -> None:
        self._stamp: tuple[int, ...] | None = None
        self._looked_at = 0.0

    def taken(self, path: Path) -> None:
        """Call before reading it: a file that changes meanwhile is then newer still."""
        self._stamp, self._looked_at = _stamp(path), time.monotonic()

    def is_there(self, path: Path) -> bool:
        now = time.monotonic()
        if now < self._looked_at + LOOK_EVERY_S:
            return False
        self._looked_at = now
        return _stamp(path) != self._stamp


def personal_positions(manifest: Manifest) -> tuple[int, ...]:
    return tuple(i for i, v in enumerate(manifest.variables) if v.role == "personal")


def _read(path: Path, variables: Sequence[Variable], positions: Sequence[int]) -> list[np.ndarray] | None:
    size = path.stat().st_size
    largest = nbytes([variables[p] for p in positions]) + header_limit(len(positions)) + 8
    if size > largest:
        raise TransferError(f"expected at most {largest} bytes. Received: {size}")
    if not size:
        return None
    arrays = decode(path.read_bytes(), variables, positions)
    check_finite(arrays, positions, limit=float("inf"))
    return arrays


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def _file(name: str) -> str:
    return f"{name}.safetensors"
