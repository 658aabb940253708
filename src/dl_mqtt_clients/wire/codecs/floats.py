"""bfloat16 and float16: rounded to nearest, ties to even; the same every time."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dl_mqtt_clients.wire.codecs.scheme import BLOCK, Parts, blocks, largest


@dataclass(frozen=True, slots=True)
class Bfloat16:
    """The upper half of a float32: its whole range at 8 significant bits. |error| ≤ 2⁻⁸·|x| + 2⁻¹³⁴."""

    name: str = "bfloat16"
    is_sparse: bool = False

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"": ("BF16", shape)}

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:  # noqa: ARG002 - the protocol's
        bits, upper = x.view(np.uint32), parts[""].reshape(-1)
        buffer = np.empty(BLOCK, np.uint32)
        for block in blocks(x.size):
            rounded = buffer[: block.stop - block.start]
            np.right_shift(bits[block], 16, out=rounded)
            np.bitwise_and(rounded, 1, out=rounded)  # ties go to the even neighbour
            np.add(rounded, 0x7FFF, out=rounded)
            np.add(rounded, bits[block], out=rounded)
            np.right_shift(rounded, 16, out=rounded)
            np.copyto(upper[block], rounded, casting="unsafe")

    def read(self, parts: Parts, out: np.ndarray) -> None:
        bits, upper = out.view(np.uint32), parts[""].reshape(-1)
        for block in blocks(out.size):
            np.copyto(bits[block], upper[block])
            np.left_shift(bits[block], 16, out=bits[block])

    def error_bound(self, x: np.ndarray) -> float:
        return 2.0**-8 * largest(x) + 2.0**-134


@dataclass(frozen=True, slots=True)
class Float16:
    """float16 times a power of two a tensor (`.scale`), which puts the largest value between 2¹⁴ and 2¹⁵.

    So nothing overflows, and small changes are not lost below float16's 6e-8: with s the scale,
    |error| ≤ 2⁻¹¹·|x| + 2⁻²⁵·s, and s ≤ 2⁻¹⁴ of the largest (or 2⁻¹²⁶).
    """

    name: str = "float16"
    is_sparse: bool = False

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"": ("F16", shape), ".scale": ("F32", ())}

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:  # noqa: ARG002 - the protocol's
        scale, halves = _power(largest), parts[""].reshape(-1)
        parts[".scale"][...] = scale
        buffer = np.empty(BLOCK, np.float32)
        for block in blocks(x.size):
            scaled = buffer[: block.stop - block.start]
            np.multiply(x[block], np.float32(1 / scale), out=scaled)
            np.copyto(halves[block], scaled, casting="same_kind")

    def read(self, parts: Parts, out: np.ndarray) -> None:
        scale, halves = parts[".scale"][()], parts[""].reshape(-1)
        if not _SMALLEST <= scale <= _HIGHEST or math.frexp(scale)[0] != 0.5:
            raise ValueError(f"scale: expected a power of two from 2⁻¹²⁶ to 2¹¹². Received: {scale:.6g}")
        for block in blocks(out.size):
            np.copyto(out[block], halves[block])
            np.multiply(out[block], scale, out=out[block])

    def error_bound(self, x: np.ndarray) -> float:
        found = largest(x)
        return 2.0**-11 * found + 2.0**-25 * _power(found)


_SMALLEST: Final = 2.0**-126  # normal: arithmetic with denormals is slow and rounds
_HIGHEST: Final = 2.0**112  # of the largest value an encoder takes


def _power(largest: float) -> float:
    """2^e with `largest`, rounded to float16's 11 bits, in [2¹⁴, 2¹⁵) · 2^e: rounding again finds the same."""
    significand, exponent = math.frexp(largest)
    if np.float16(significand) == 1:
        exponent += 1
    return max(math.ldexp(1.0, exponent - 15), _SMALLEST)
