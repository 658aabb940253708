"""Weights as safetensors: keys are positions in the manifest's list of variables (`0007`).

`encode` writes what the safetensors library writes. `decode` is stricter than the library: exactly the expected
positions, dtypes and shapes, laid out without gaps, or TransferError; it returns views: a 100 MB update is not copied.
"""

import json
import math
from collections.abc import Container, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

import msgspec
import numpy as np
from safetensors.numpy import save

from dl_mqtt_clients.errors import ConfigurationError, TransferError
from dl_mqtt_clients.wire.messages import Variable

Buffer = bytes | bytearray | memoryview

DTYPES: Final = {
    "float64": "F64", "float32": "F32", "float16": "F16",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


TRAVELLING: Final = ("trainable", "statistic")
STAYING: Final = ("frozen", "personal")  # of all versions the same, as far as a manager knows


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a safetensors header says of one tensor; offsets count from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def key(position: int) -> str:
    return f"{position:04d}"


def update_positions(variables: Sequence[Variable]) -> tuple[int, ...]:
    """Positions that travel in an update: what training changes and all nodes share."""
    return tuple(i for i, v in enumerate(variables) if v.role in TRAVELLING)


def is_divided(variables: Sequence[Variable]) -> bool:
    """Whether a version's blob `frozen` holds what no round changes (a backbone, heads), and `weights` the others."""
    return any(v.role in STAYING for v in variables)


def blob_positions(variables: Sequence[Variable], blobs: Container[str]) -> dict[str, tuple[int, ...]]:
    """Which positions each blob of a version's values holds; a manifest that has `frozen` among its `blobs` is divided.

    `best` is another version's `weights`, and stands beside the same `frozen`.
    """
    everything = tuple(range(len(variables)))
    if "frozen" not in blobs:
        return {"weights": everything, "best": everything}
    frozen = tuple(p for p in everything if variables[p].role in STAYING)
    others = tuple(p for p in everything if variables[p].role not in STAYING)
    return {"weights": others, "best": others, "frozen": frozen}


def join(blobs: Mapping[str, Buffer], variables: Sequence[Variable], *, version: str = "weights") -> list[np.ndarray]:
    """A version's values as read-only views, one a variable, from its blob `weights` (or `best`) and `frozen`, if any.

    TransferError when a blob is not what these variables say.
    """
    positions = blob_positions(variables, blobs)
    held = {
        position: array
        for name in (version, "frozen")
        if name in positions
        for position, array in zip(positions[name], decode(blobs[name], variables, positions[name]), strict=True)
    }
    return [held[position] for position in range(len(variables))]


def mark_personal(variables: Sequence[Variable], patterns: Sequence[str]) -> tuple[Variable, ...]:
    """The same variables; those that travel and whose path matches a pattern are personal: they stay on their node.

    FedBN (Li et al., ICLR 2021, arXiv:2102.07623): `*/batch_normalization*/*` · FedPer (Arivazhagan et al., 2019,
    arXiv:1912.00818): the last layers, `*/output/*`.

    Args:
        variables: a model's, as its manifest lists them.
        patterns: as file names are matched (`*`, `?`, `[…]`); `*` crosses `/`, and a path may begin with `/`.

    Raises:
        ConfigurationError: patterns that match nothing that travels, or nothing left to travel.

    """
    found = [[_matches(v, pattern) for v in variables] for pattern in patterns]
    lost = [pattern for pattern, hits in zip(patterns, found, strict=True) if not any(hits)]
    if lost:
        paths = ", ".join(v.path[:100] for v in variables if v.role in TRAVELLING)[:1000] or "nothing that travels"
        raise ConfigurationError([f"personal: expected a pattern of {paths}. Received: {p[:100]!r}" for p in lost])
    marked = tuple(
        msgspec.structs.replace(v, role="personal") if any(hits) else v
        for v, *hits in zip(variables, *found, strict=True)
    )
    if patterns and not any(v.role == "trainable" for v in marked):
        raise ConfigurationError([f"personal: expected something left to share. Received: {', '.join(patterns)[:500]}"])
    return marked


def _matches(variable: Variable, pattern: str) -> bool:
    if variable.role not in (*TRAVELLING, "personal"):
        return False
    return any(fnmatchcase(path, pattern) for path in (variable.path, f"/{variable.path}"))


def nbytes(variables: Sequence[Variable]) -> int:
    """Bytes of the tensors alone, without the header. TransferError for a dtype that does not travel."""
    return sum(math.prod(v.shape) * _dtype(v).itemsize for v in variables)


def header_limit(entries: int) -> int:
    """Largest header we read: about 150 bytes a tensor."""
    return 64 + 256 * max(entries, 1)


def encode(arrays: Sequence[np.ndarray], positions: Sequence[int] | None = None) -> bytes:
    """Arrays (one a position; by default 0, 1, …) to a safetensors file."""
    names = range(len(arrays)) if positions is None else positions
    data: bytes = save({key(p): np.asarray(a, order="C") for p, a in zip(names, arrays, strict=True)})
    return data


def decode(buffer: Buffer, variables: Sequence[Variable], positions: Sequence[int] | None = None) -> list[np.ndarray]:
    """A safetensors file to read-only views in the order of `positions` (by default all `variables`)."""
    view = memoryview(buffer).cast("B").toreadonly()
    wanted = tuple(range(len(variables))) if positions is None else tuple(positions)
    header, start = read_header(view, len(wanted))
    if sorted(header) != sorted(key(p) for p in wanted):
        unexpected = [name[:16] for name in sorted(set(header) ^ {key(p) for p in wanted})[:5]]
        raise TransferError(f"weights: expected exactly {len(wanted)} positions. Wrong or missing: {unexpected}")
    check_layout(header, len(view) - start)
    return [_tensor(view, start, header[key(p)], p, variables[p]) for p in wanted]


def check_finite(arrays: Sequence[np.ndarray], positions: Sequence[int], *, limit: float) -> None:
    """TransferError when a value is NaN, infinite, or larger than `limit` in magnitude."""
    for array, position in zip(arrays, positions, strict=True):
        if array.size == 0 or not np.issubdtype(array.dtype, np.floating):
            continue
        low, high = float(array.min()), float(array.max())  # NaN and infinity show in either
        if not (np.isfinite(low) and np.isfinite(high)):
            raise TransferError(f"weights: position {key(position)} holds NaN or infinity")
        if max(-low, high) > limit:
            raise TransferError(
                f"weights: position {key(position)}: expected |change| ≤ {limit:g}. Received: {max(-low, high):.3g}"
            )


def read_header(view: memoryview, entries: int) -> tuple[dict[str, Entry], int]:
    """What the file says of its tensors, and where their bytes begin. TransferError when it cannot hold `entries`."""
    if len(view) < 8:
        raise TransferError(f"weights: expected a safetensors header. Received: {len(view)} bytes")
    length = int.from_bytes(view[:8], "little")
    if length > min(header_limit(entries), len(view) - 8):
        raise TransferError(f"weights: header length {length} does not fit {entries} tensors in {len(view)} bytes")
    try:
        # The standard decoder shows every pair: of two tensors under one key, another reader may take the other.
        header = json.loads(str(view[8 : 8 + length], "utf-8"), object_pairs_hook=_distinct)
        return msgspec.convert(header, dict[str, Entry]), 8 + length
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        raise TransferError(f"weights: the safetensors header cannot be read: {str(error)[:200]}") from error


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def check_layout(header: dict[str, Entry], data_bytes: int) -> None:
    """TransferError unless the tensors fill exactly `data_bytes`, side by side."""
    end = 0
    for begin, stop in sorted(e.data_offsets for e in header.values()):
        if begin != end or stop < begin:
            raise TransferError("weights: tensors overlap or leave gaps")
        end = stop
    if end != data_bytes:
        raise TransferError(f"weights: expected {end} bytes of tensors. Received: {data_bytes}")


def _tensor(view: memoryview, start: int, entry: Entry, position: int, variable: Variable) -> np.ndarray:
    expected = (DTYPES.get(variable.dtype, "?"), tuple(variable.shape))
    if (entry.dtype, entry.shape) != expected:
        raise TransferError(
            f"weights: position {key(position)} ({variable.path[:100]}): expected {str(expected)[:100]}. "
            f"Received: {str((entry.dtype, entry.shape))[:100]}"
        )
    begin, stop = entry.data_offsets
    dtype = _dtype(variable)
    if stop - begin != math.prod(entry.shape) * dtype.itemsize:
        raise TransferError(f"weights: position {key(position)}: its bytes do not match its shape")
    try:
        return np.frombuffer(view[start + begin : start + stop], dtype=dtype).reshape(entry.shape)
    except ValueError as error:  # more dimensions, or longer ones beside a 0, than an array can have
        raise TransferError(f"weights: position {key(position)}: {str(error)[:200]}") from error


def _dtype(variable: Variable) -> np.dtype[Any]:
    if variable.dtype not in DTYPES:
        raise TransferError(
            f"weights: {variable.path[:100]}: expected a dtype of {', '.join(DTYPES)}."
            f" Received: {variable.dtype[:16]!r}"
        )
    return np.dtype(variable.dtype).newbyteorder("<")
