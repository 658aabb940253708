"""Who gets which rows: a data set shared out to the nodes of a federation."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.errors import DataError

Index = npt.NDArray[np.integer[Any]]
Partition = Literal["even", "group", "dirichlet"]


def partition(
    dataset: Dataset,
    nodes: int | Sequence[str],
    *,
    by: Partition = "even",
    alpha: float = 0.5,
    seed: int = 0,
) -> list[Index]:
    """The rows of each node: disjoint, complete, at least one each, in the data set's own order.

    Args:
        dataset: to share out.
        nodes: how many, or their names.
        by: `even` draws equal parts; `group` deals whole groups (hosts), the largest first, each to the node that
            has least: the natural federation; `dirichlet` gives each class to the nodes in proportions drawn from
            Dir(alpha) (Hsu et al., arXiv:1909.06335), or each group when all labels are of one class.
        alpha: > 0; the smaller, the more the nodes differ.
        seed: of the draws.

    Raises:
        DataError: fewer rows or groups than nodes, or no groups where they are needed.

    """
    count = nodes if isinstance(nodes, int) else len(nodes)
    if not 1 <= count <= len(dataset):
        raise DataError(
            f"partition: expected from 1 to {len(dataset)} nodes, one for each row at most. Received: {count}"
        )
    rng = np.random.default_rng(seed)
    if by == "even":
        parts: Sequence[Index] = np.array_split(rng.permutation(len(dataset)), count)
    elif by == "group":
        parts = _by_group(dataset, count)
    elif by == "dirichlet":
        parts = _by_dirichlet(_classes(dataset), count, alpha, rng)
    else:
        raise DataError(f"partition: expected even, group or dirichlet. Received: {by!r}")
    return [np.sort(part) for part in parts]


def _by_group(dataset: Dataset, count: int) -> list[Index]:
    if dataset.groups is None:
        raise DataError(f"partition by group: expected groups in {dataset.name!r}. Received: none")
    names, codes, sizes = np.unique(dataset.groups.astype(str), return_inverse=True, return_counts=True)
    if len(names) < count:
        raise DataError(
            f"partition by group: expected at least {count} groups, one for each node. Received: {len(names)}"
        )
    owner = np.zeros(len(names), int)
    held = np.zeros(count, int)
    for group in np.argsort(-sizes, kind="stable"):
        owner[group] = np.argmin(held)
        held[owner[group]] += sizes[group]
    return [np.flatnonzero(owner[codes] == node) for node in range(count)]


def _classes(dataset: Dataset) -> npt.NDArray[Any]:
    """What is skewed: labels, or groups when the labels are of one class."""
    if len(np.unique(dataset.y)) > 1:
        return dataset.y
    if dataset.groups is None:
        raise DataError(f"partition dirichlet: expected labels of several classes, or groups, in {dataset.name!r}")
    return dataset.groups.astype(str)


def _by_dirichlet(classes: npt.NDArray[Any], count: int, alpha: float, rng: np.random.Generator) -> list[Index]:
    if not alpha > 0:
        raise DataError(f"partition dirichlet: expected alpha > 0. Received: {alpha}")
    owner = np.zeros(len(classes), int)
    for value in np.unique(classes):
        rows = rng.permutation(np.flatnonzero(classes == value))
        bounds = np.cumsum(_proportions(count, alpha, rng))[:-1] * len(rows)
        owner[rows] = np.searchsorted(bounds, np.arange(len(rows)), side="right")
    parts: Sequence[Index] = [np.flatnonzero(owner == node) for node in range(count)]
    return _none_empty(list(parts))


def _proportions(count: int, alpha: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    drawn: npt.NDArray[np.float64] = rng.dirichlet(np.full(count, alpha))
    if not np.isfinite(drawn).all():  # a tiny alpha underflows; its limit gives everything to one node
        drawn = np.eye(count)[rng.integers(count)]
    return drawn


def _none_empty(parts: list[Index]) -> list[Index]:
    """A node without a row takes the first one of whoever has most."""
    for node, part in enumerate(parts):
        if len(part) == 0:
            richest = int(np.argmax([len(other) for other in parts]))
            parts[node], parts[richest] = parts[richest][:1], parts[richest][1:]
    return parts
