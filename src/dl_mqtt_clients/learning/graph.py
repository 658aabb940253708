"""Sizes read from a model's graph, whose variables may be shapes only."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras


def leaves(model: keras.Model) -> Iterator[Any]:
    """Every layer and tensor operation, those of models inside models as well."""
    for operation in getattr(model, "operations", None) or model.layers:
        if isinstance(operation, keras.Model):
            yield from leaves(operation)
        else:
            yield operation


def largest_tensor(model: keras.Model) -> int:
    """Values in the largest tensor between two operations, a row of the batch."""
    return max((_values(shape[1:]) for leaf in leaves(model) for shape in _shapes(leaf)), default=0)


def multiplications(model: keras.Model) -> int:
    """Roughly, for one row forward: parameters × the places (pixels, time steps) each is used at."""
    total = 0
    for leaf in leaves(model):
        parameters = sum(_values(v.shape) for v in getattr(leaf, "weights", ()))
        total += parameters * max((_values(shape[1:-1]) for shape in _shapes(leaf)), default=1)
    return total


def _shapes(operation: Any) -> Iterator[Sequence[int | None]]:
    for node in operation._inbound_nodes:  # noqa: SLF001  # a shared layer has no `output` of its own
        for tensor in (*node.input_tensors, *node.outputs):
            yield tensor.shape


def _values(shape: Sequence[int | None]) -> int:
    return math.prod(size or 1 for size in shape)
