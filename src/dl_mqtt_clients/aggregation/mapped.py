"""Memory-mapped arrays: letting their pages go.

A page that was read counts as this process's memory, up to all of a round's updates, though the system may take it back
at any time. Given back, it counts no more, and whoever reads it again gets it again.
"""

import mmap
from collections.abc import Iterable, Sequence

import numpy as np


def mappings(arrays: Iterable[np.ndarray]) -> list[mmap.mmap]:
    """The mapped files that these arrays are views of; none of those that are in memory."""
    found = {id(mapping): mapping for mapping in map(_mapping, arrays) if mapping is not None}
    return list(found.values())


def give_back(mapped: Sequence[mmap.mmap]) -> None:
    """Let all pages of these files go."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in mapped:
            mapping.madvise(mmap.MADV_DONTNEED)


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    owner: object = array
    while owner is not None and not isinstance(owner, mmap.mmap):
        owner = owner.obj if isinstance(owner, memoryview) else getattr(owner, "base", None)
    return owner
