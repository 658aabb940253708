"""Top-k with error feedback: the k largest values of a tensor, exactly; what is left out is added to the next update.

    a = x + residual      sent = the k largest |a|      residual' = a - sent

k = ceil(share · n), always: the file's size is known from the shape. Of equal magnitudes the first are taken. Values
are float32, their places (`.index`, uint32) rise. Stich, Cordonnier, Jaggi: Sparsified SGD with memory, 2018, alg. 1
(a tensor at a time instead of the whole model, and an update instead of a gradient).
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from dl_mqtt_clients.errors import WireError
from dl_mqtt_clients.wire.codecs.scheme import Parts, blocks

SHARES: Final = (0.0001, 0.5)  # a receiver allocates at most 1/share times what came; above one half float32 is smaller
_BLOCK: Final = 1 << 18  # values a pass: large against a histogram of 65,536 bins
_MAGNITUDE: Final = np.uint32(0x7FFFFFFF)  # a float32's bits without its sign rise with its magnitude
_LOW_BITS: Final = 15  # 16 + 15 bits: two histograms find the k-th largest exactly


@dataclass(frozen=True, slots=True)
class TopK:
    """`share` of the values of each tensor, 0.0001 ≤ share ≤ 0.5. |error| ≤ the largest value left out."""

    share: float
    is_sparse: bool = True

    def __post_init__(self) -> None:
        if not SHARES[0] <= self.share <= SHARES[1]:
            raise WireError(f"codec topk: share: expected {SHARES[0]} to {SHARES[1]}. Received: {self.share}")

    @property
    def name(self) -> str:
        return f"topk:{self.share!r}"

    def kept(self, size: int) -> int:
        """How many of `size` values travel."""
        return math.ceil(self.share * size)

    def parts(self, shape: tuple[int, ...]) -> dict[str, tuple[str, tuple[int, ...]]]:
        kept = (self.kept(math.prod(shape)),)
        return {"": ("F32", kept), ".index": ("U32", kept)}

    def write(self, x: np.ndarray, parts: Parts, *, largest: float, seed: tuple[int, int] | None) -> None:  # noqa: ARG002 - the protocol's
        values, places = parts[""], parts[".index"]
        threshold, ties = _threshold(x, values.size)
        filled = 0
        for block in blocks(x.size, _BLOCK):
            magnitude = x[block].view(np.uint32) & _MAGNITUDE
            chosen = np.flatnonzero(magnitude >= threshold)
            equal = magnitude[chosen] == threshold
            spare = equal & (np.cumsum(equal) > ties)
            ties = max(ties - int(equal.sum()), 0)
            chosen = chosen[~spare]
            places[filled : filled + chosen.size] = chosen + block.start
            values[filled : filled + chosen.size] = x[block][chosen]
            filled += chosen.size

    def read(self, parts: Parts, out: np.ndarray) -> None:
        values, places = parts[""], parts[".index"]
        if places[-1] >= out.size or not (places[1:] > places[:-1]).all():
            raise ValueError(f"index: expected rising places below {out.size}")
        out[places] = values

    def error_bound(self, x: np.ndarray) -> float:
        return float(np.uint32(_threshold(x, self.kept(x.size))[0]).view(np.float32))


def _threshold(x: np.ndarray, kept: int) -> tuple[int, int]:
    """Bits of the `kept`-th largest magnitude, and how many of the values equal to it belong to the `kept` largest."""
    upper, above = _from_top(_histogram(x, None), kept)
    lower, above_lower = _from_top(_histogram(x, upper), kept - above)
    return (upper << _LOW_BITS) | lower, kept - above - above_lower


def _histogram(x: np.ndarray, upper: int | None) -> np.ndarray:
    """How many magnitudes have each upper part; with `upper`, how many of those with this one have each lower part."""
    bins = 1 << 16 if upper is None else 1 << _LOW_BITS
    counts = np.zeros(bins, np.int64)
    for block in blocks(x.size, _BLOCK):
        bits = x[block].view(np.uint32) & _MAGNITUDE
        if upper is not None:
            bits = bits[bits >> _LOW_BITS == upper] & ((1 << _LOW_BITS) - 1)
        else:
            bits >>= _LOW_BITS
        counts += np.bincount(bits, minlength=bins)
    return counts


def _from_top(counts: np.ndarray, wanted: int) -> tuple[int, int]:
    """The bin that holds the `wanted`-th from above, and how many lie in the bins above it."""
    reached = np.cumsum(counts[::-1])
    steps = int(np.searchsorted(reached, wanted))
    return len(counts) - 1 - steps, int(reached[steps - 1]) if steps else 0
