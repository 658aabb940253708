"""Safetensors files with tensors of our own beside the positions: `0007`, `0007.scale`, `0007.index`.

`allocate` lays a file out (byte for byte as the safetensors library does) and hands out views to write into, so that
an encoder needs no second copy. `read` is as strict as `weights.decode`: exactly the expected keys, dtypes and shapes.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.weights import Buffer, check_layout, header_limit, read_header

STORED: Final[dict[str, np.dtype[Any]]] = {  # in the library's order: a file begins with the last of them
    "BOOL": np.dtype("?"), "U8": np.dtype("u1"), "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"), "U16": np.dtype("<u2"), "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its bits, the upper half of a float32
    "I32": np.dtype("<i4"), "U32": np.dtype("<u4"), "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "U64": np.dtype("<u8"),
}  # fmt: skip
_ORDER: Final = {name: place for place, name in enumerate(STORED)}
_ALIGNMENT_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: known to both sides before a byte is sent."""

    key: str
    dtype: str  # as safetensors spells it
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * STORED[self.dtype].itemsize


def size_range(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """Smallest and largest file, in bytes, that `read` can take: the header's spelling is the writer's."""
    data_bytes = sum(t.bytes for t in tensors)
    return 8 + len("{}") + data_bytes, 8 + header_limit(len(tensors)) + data_bytes


def allocate(tensors: Sequence[Tensor]) -> tuple[bytearray, dict[str, np.ndarray]]:
    """A file whose header is written, and writable views of its (zero) tensors by key."""
    ordered = sorted(tensors, key=lambda t: (-_ORDER[t.dtype], t.key))
    entries, begins, end = {}, {}, 0
    for tensor in ordered:
        begins[tensor.key] = end
        end += tensor.bytes
        entries[tensor.key] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [begins[tensor.key], end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    start = 8 + len(text)
    file = bytearray(start + end)
    file[:start] = len(text).to_bytes(8, "little") + text
    view = memoryview(file)
    return file, {t.key: _array(view, start + begins[t.key], t) for t in ordered}


def read(buffer: Buffer, tensors: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Read-only views by key. TransferError unless the file holds exactly these tensors."""
    view = memoryview(buffer).cast("B").toreadonly()
    header, start = read_header(view, len(tensors))
    if header.keys() != {t.key for t in tensors}:
        wrong = [name[:24] for name in sorted(header.keys() ^ {t.key for t in tensors})[:5]]
        raise TransferError(f"update: expected exactly {len(tensors)} tensors. Wrong or missing: {wrong}")
    check_layout(header, len(view) - start)
    return {t.key: _checked(view, start, t, header[t.key]) for t in tensors}


def _checked(view: memoryview, start: int, tensor: Tensor, entry: Any) -> np.ndarray:
    if (entry.dtype, entry.shape) != (tensor.dtype, tensor.shape):
        raise TransferError(
            f"update: {tensor.key}: expected {str((tensor.dtype, tensor.shape))[:100]}."
            f" Received: {str((entry.dtype, entry.shape))[:100]}"
        )
    begin, stop = entry.data_offsets
    if stop - begin != tensor.bytes:
        raise TransferError(f"update: {tensor.key}: its bytes do not match its shape")
    try:
        return _array(view, start + begin, tensor)
    except ValueError as error:  # more dimensions, or longer ones beside a 0, than an array can have
        raise TransferError(f"update: {tensor.key}: {str(error)[:200]}") from error


def _array(view: memoryview, begin: int, tensor: Tensor) -> np.ndarray:
    return np.frombuffer(view[begin : begin + tensor.bytes], dtype=STORED[tensor.dtype]).reshape(tensor.shape)
