"""int8 and int4: steps of a scale, one scale (`.scale`, float32) for each 1,024 values in row order.

    step = largest |x| of the group / levels, rounded up to 17 significant bits      levels: 127 or 7
    q = floor(x/step + u), u uniform on [0, 1)      decoded = q · step, exact in float32

Symmetric, so that no change stays no change. The rounding is stochastic (QSGD, Alistarh et al. 2017, §3.1, with the
largest magnitude for the norm): its mean is x but for 2⁻¹⁶ steps, its error below one step; to nearest (no seed) the
error is half a step. Not one affine scale a tensor: an outlier would coarsen millions of values; this costs 0.4%.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from dl_mqtt_clients.wire.codecs.scheme import BLOCK, LARGEST, Parts, blocks

GROUP: Final = 1024  # values that share a scale; BLOCK is a multiple
_SMALLEST: Final = np.float32(2.0**-126)  # normal: arithmetic with denormals is slow and rounds
_LOW_BITS: Final = np.uint32(0x7F)  # of a scale, zero: 17 significant bits times 7 of q are float32's 24


@dataclass(frozen=True, slots=True)
class Int8:
    """A byte a value. |error| < largest/127 of its group, and 2⁻¹⁶ of that, or 2⁻¹²⁶."""

    name: str = "int8"
    is_sparse: bool = False

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        return {"": ("I8", shape), ".scale": ("F32", (_groups(shape),))}

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:  # noqa: ARG002 - the protocol's
        stored = parts[""].reshape(-1)
        for block, steps in _steps(x, parts[".scale"], 127, seed):
            np.copyto(stored[block], steps, casting="unsafe")

    def read(self, parts: Parts, out: np.ndarray) -> None:
        stored, scales = parts[""].reshape(-1), parts[".scale"]
        _check_scales(scales, 127)
        for block, width in _group_blocks(out.size):
            if stored[block].min() == -128:
                raise ValueError("expected -127 … 127. Received: -128")
            np.copyto(out[block], stored[block])
            _multiply(out, block, width, scales)

    def error_bound(self, x: np.ndarray) -> float:
        return _coarsest(x, 127)


@dataclass(frozen=True, slots=True)
class Int4:
    """Two values a byte, q + 8, the first in the low half; 8 pads an odd end. |error| < largest/7 of its group."""

    name: str = "int4"
    is_sparse: bool = False

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        size = math.prod(shape)
        return {"": ("U8", (-(-size // 2),)), ".scale": ("F32", (_groups(shape),))}

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:  # noqa: ARG002 - the protocol's
        packed, buffer = parts[""], np.empty(BLOCK, np.uint8)
        for block, steps in _steps(x, parts[".scale"], 7, seed):
            pairs = -(-steps.size // 2)
            buffer[2 * pairs - 1] = 8
            np.add(steps, 8, out=steps)
            np.copyto(buffer[: steps.size], steps, casting="unsafe")
            wide = buffer[: 2 * pairs].view("<u2")  # low byte: first value
            np.bitwise_or(wide, wide >> 4, out=wide)
            np.copyto(packed[block.start // 2 :][:pairs], wide, casting="unsafe")

    def read(self, parts: Parts, out: np.ndarray) -> None:
        packed, scales = parts[""], parts[".scale"]
        _check_scales(scales, 7)
        if out.size % 2 and packed[-1] >> 4 != 8:
            raise ValueError(f"padding: expected 8. Received: {packed[-1] >> 4}")
        wide = np.empty(BLOCK // 2, "<u2")
        for block, width in _group_blocks(out.size):
            pairs = packed[block.start // 2 : -(-block.stop // 2)]
            np.copyto(wide[: pairs.size], pairs)
            np.bitwise_or(wide, wide << 4, out=wide)
            np.bitwise_and(wide, 0x0F0F, out=wide)
            values = wide.view(np.uint8)[: block.stop - block.start]
            if values.min() == 0:
                raise ValueError("expected -7 … 7. Received: -8")
            np.subtract(values, np.float32(8), out=out[block])
            _multiply(out, block, width, scales)

    def error_bound(self, x: np.ndarray) -> float:
        return _coarsest(x, 7)


def _groups(shape: tuple[int, ...]) -> int:
    return -(-math.prod(shape) // GROUP)


def _group_blocks(size: int) -> Iterator[tuple[slice, int]]:
    """Blocks of whole groups, and at last the group that is not full; each with the width of its groups."""
    whole = size - size % GROUP
    for block in blocks(whole):
        yield block, GROUP
    if whole < size:
        yield slice(whole, size), size - whole


def _steps(
    x: np.ndarray, scales: np.ndarray, levels: int, seed: tuple[int, int] | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Blocks of x as float32 whole numbers of steps, -levels … levels; fills `scales`."""
    draws = None if seed is None else np.random.SFC64(np.random.SeedSequence(seed[0], spawn_key=(seed[1],)))
    buffer, noise = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for block, width in _group_blocks(x.size):
        flat = buffer[: block.stop - block.start]
        steps = flat.reshape(-1, width)
        np.abs(x[block].reshape(-1, width), out=steps)
        scale = _scale(steps.max(axis=1), levels)
        first = block.start // GROUP
        scales[first : first + scale.size] = scale
        # A division, not a product with 1/scale: whole numbers of steps must come out whole.
        np.divide(x[block].reshape(-1, width), scale[:, None], out=steps)
        if draws is None:
            np.rint(flat, out=flat)
        else:
            np.add(flat, _uniform(draws, noise[: flat.size]), out=flat)
            np.floor(flat, out=flat)
        yield block, flat


def _uniform(draws: np.random.SFC64, out: np.ndarray) -> np.ndarray:
    """(r + ½)·2⁻¹⁶, r of 16 bits: added to a whole number up to 127 it stays below the next one in float32."""
    words = draws.random_raw(-(-out.size // 4)).astype("<u8", copy=False).view("<u2")[: out.size]
    np.multiply(words, np.float32(2.0**-16), out=out)
    np.add(out, np.float32(2.0**-17), out=out)
    return out


def _scale(magnitudes: np.ndarray, levels: int) -> np.ndarray:
    """magnitudes/levels, never less, so that no value needs more than `levels` steps.

    The division rounds to nearest, and yet never down to a scale s of 17 bits: the float32 that follows levels·s,
    divided by 127 or 7, lies more than half a unit above s. From any other float32 the last step goes up.
    """
    bits = np.maximum(magnitudes / np.float32(levels), _SMALLEST).view(np.uint32)
    return ((bits + _LOW_BITS) & ~_LOW_BITS).view(np.float32)


def _check_scales(scales: np.ndarray, levels: int) -> None:
    if not scales.size:
        return
    low, high = scales.min(), scales.max()  # NaN shows in either
    if not (low >= _SMALLEST and high * np.float64(levels) <= 2 * LARGEST):
        raise ValueError(f"scale: expected 2⁻¹²⁶ to 2¹²⁷/{levels}. Received: {low:.6g} to {high:.6g}")
    if (scales.view(np.uint32) & _LOW_BITS).any():
        raise ValueError("scale: expected at most 17 significant bits")


def _multiply(out: np.ndarray, block: slice, width: int, scales: np.ndarray) -> None:
    rows = out[block].reshape(-1, width)
    first = block.start // GROUP
    np.multiply(rows, scales[first : first + len(rows), None], out=rows)


def _coarsest(x: np.ndarray, levels: int) -> float:
    """Largest step of all groups."""
    found = 0.0
    for block, width in _group_blocks(x.size):
        found = max(found, float(_scale(np.abs(x[block].reshape(-1, width)).max(axis=1), levels).max()))
    return found
