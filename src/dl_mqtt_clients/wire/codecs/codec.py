"""A codec turns a list of float32 arrays into a safetensors file and back; strict, and of a size known beforehand.

Which tensors a scheme touches follows from the manifest alone, so that both sides agree: trainable, float32, and
256 values or more. All others travel as they are: small ones, where nothing is to be gained, and statistics, since a
variance must not be rounded below 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from dl_mqtt_clients.errors import TransferError
from dl_mqtt_clients.wire.codecs import tensor_file
from dl_mqtt_clients.wire.codecs.scheme import LARGEST, Parts, Scheme, largest
from dl_mqtt_clients.wire.codecs.tensor_file import Tensor
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import DTYPES, Buffer, key

SMALLEST_CODED: Final = 256  # values; a smaller tensor stays float32
LARGEST_CODED: Final = 2**32 - 1  # values; places are uint32


def is_coded(variable: Variable) -> bool:
    """Whether a scheme is applied to it; otherwise it travels as it is."""
    size = math.prod(variable.shape)
    return variable.role == "trainable" and variable.dtype == "float32" and SMALLEST_CODED <= size <= LARGEST_CODED


def as_changes(variables: Sequence[Variable]) -> list[Variable]:
    """The variables of an update: a change travels as float32, whatever the variable is kept in."""
    return [msgspec.structs.replace(v, dtype="float32") for v in variables]


@dataclass(frozen=True, slots=True)
class Encoded:
    """`data`: the file. `residual`: what a sparse codec left out, one float32 array a position, for the next update."""

    data: bytearray = field(repr=False)
    residual: list[np.ndarray] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Codec:
    """How arrays travel: the large trainable ones by `scheme`. Arrays stand in the order of `positions` (all)."""

    scheme: Scheme | None  # None: everything as it is

    @property
    def name(self) -> str:
        """As the announcement and the YAML spell it; `codec(name)` is equal to this one."""
        return "float32" if self.scheme is None else self.scheme.name

    @property
    def carries_weights(self) -> bool:
        """Whether whole weights may travel so; a sparse codec is for changes."""
        return self.scheme is None or not self.scheme.is_sparse

    def size_range(self, variables: Sequence[Variable], positions: Sequence[int] | None = None) -> tuple[int, int]:
        """Bytes of the smallest and the largest file that `decode` takes."""
        return tensor_file.size_range(self._tensors(variables, _given(variables, positions)))

    def encode(
        self,
        arrays: Sequence[np.ndarray],
        variables: Sequence[Variable],
        positions: Sequence[int] | None = None,
        *,
        seed: int | None,
        residual: Sequence[np.ndarray] | None = None,
    ) -> Encoded:
        """Arrays to a file. The same seed ≥ 0 gives the same bytes; None rounds to nearest (biased: not for updates).

        `residual` is what the last *accepted* update left out; it is added. Keep the new one (or none) from this
        update's receipt on, the old one when it is refused. TransferError when a value is NaN, infinite or above 2¹²⁶.
        """
        given = _given(variables, positions)
        data, views = tensor_file.allocate(self._tensors(variables, given))
        olds: Sequence[np.ndarray | None] = [None] * len(given) if residual is None else residual
        left = []
        for array, old, position in zip(arrays, olds, given, strict=True):
            variable = variables[position]
            x = _shaped(array, variable, position).reshape(-1)
            if old is not None:
                x = _sum(x, _shaped(old, variable, position).reshape(-1))
            parts = self._parts(views, variable, position)
            self._write(x, parts, variable, position, seed)
            if not self.carries_weights:
                left.append(_left_out(x, parts, owned=old is not None).reshape(variable.shape))
        return Encoded(data, None if self.carries_weights else left)

    def decode(
        self, buffer: Buffer, variables: Sequence[Variable], positions: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """A file to arrays of the variables' shapes and dtypes: read-only views where it holds them as they are.

        TransferError unless exactly the expected tensors are there and every value is finite.
        """
        given = _given(variables, positions)
        views = tensor_file.read(buffer, self._tensors(variables, given))
        with np.errstate(all="ignore"):  # what overflows is refused below
            return [self._read(self._parts(views, variables[p], p), variables[p], p) for p in given]

    def round(
        self, arrays: Sequence[np.ndarray], variables: Sequence[Variable], positions: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """What a receiver gets of `arrays`, rounded to nearest: rounding it again changes nothing.

        A manager whose downloads are lossy adopts it. ValueError when the codec does not carry weights.
        """
        if not self.carries_weights:
            raise ValueError(f"codec {self.name}: expected one that carries whole weights")
        return self.decode(self.encode(arrays, variables, positions, seed=None).data, variables, positions)

    def error_bound(
        self, arrays: Sequence[np.ndarray], variables: Sequence[Variable], positions: Sequence[int] | None = None
    ) -> list[float]:
        """Largest |decoded - array| of a value, one bound an array; 0 where it travels as it is.

        Whatever the seed; of a sparse codec without a residual.
        """
        given = _given(variables, positions)
        schemes = [self._scheme(variables[p]) for p in given]
        return [s.error_bound(np.ravel(a)) if s else 0.0 for s, a in zip(schemes, arrays, strict=True)]

    def _scheme(self, variable: Variable) -> Scheme | None:
        return self.scheme if is_coded(variable) else None

    def _tensors(self, variables: Sequence[Variable], positions: Sequence[int]) -> list[Tensor]:
        return [
            Tensor(f"{key(p)}{suffix}", dtype, shape)
            for p in positions
            for suffix, (dtype, shape) in self._layout(variables[p]).items()
        ]

    def _layout(self, variable: Variable) -> dict[str, tuple[str, tuple[int, ...]]]:
        if scheme := self._scheme(variable):
            return scheme.parts(variable.shape)
        if variable.dtype not in DTYPES:
            raise TransferError(f"update: {variable.path[:100]}: dtype {variable.dtype[:16]!r} does not travel")
        return {"": (DTYPES[variable.dtype], variable.shape)}

    def _parts(self, views: Parts, variable: Variable, position: int) -> Parts:
        return {suffix: views[f"{key(position)}{suffix}"] for suffix in self._layout(variable)}

    def _write(self, x: np.ndarray, parts: Parts, variable: Variable, position: int, seed: int | None) -> None:
        found = _check(x, position, limit=LARGEST)
        if scheme := self._scheme(variable):
            scheme.write(x, parts, largest=found, seed=None if seed is None else (seed, position))
        else:
            np.copyto(parts[""].reshape(-1), x)

    def _read(self, parts: Parts, variable: Variable, position: int) -> np.ndarray:
        out = parts[""]
        if scheme := self._scheme(variable):
            try:
                out = np.zeros(variable.shape, np.float32)
                scheme.read(parts, out.reshape(-1))
            except (ValueError, MemoryError) as error:
                raise TransferError(f"update: position {key(position)}: {error}") from error
        _check(out.reshape(-1), position, limit=2 * LARGEST)
        return out


def _given(variables: Sequence[Variable], positions: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(len(variables))) if positions is None else tuple(positions)


def _shaped(array: np.ndarray, variable: Variable, position: int) -> np.ndarray:
    """The array in row order; ValueError when it is not the variable's."""
    given = np.asarray(array, order="C")
    if (given.shape, given.dtype.name) != (tuple(variable.shape), variable.dtype):
        raise ValueError(
            f"position {key(position)}: expected {variable.dtype} {variable.shape}."
            f" Received: {given.dtype.name} {given.shape}"
        )
    return given


def _check(x: np.ndarray, position: int, *, limit: float) -> float:
    """The largest magnitude. TransferError when it is above `limit`, or a value is NaN."""
    if not np.issubdtype(x.dtype, np.floating):
        return 0.0
    found = largest(x)
    if not found <= (limit if x.dtype == np.float32 else np.finfo(x.dtype).max):
        raise TransferError(f"update: position {key(position)} holds NaN, infinity or a value above {limit:.3g}")
    return found


def _sum(x: np.ndarray, old: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # refused by the check that follows
        return np.asarray(x + old)


def _left_out(x: np.ndarray, parts: Parts, *, owned: bool) -> np.ndarray:
    """What of x was not sent; in place when x is ours."""
    if ".index" not in parts:
        return np.zeros_like(x)
    left = x if owned else x.copy()
    left[parts[".index"]] = 0
    return left
