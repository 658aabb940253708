"""Which arrays of an update are trainables, which are statistics, and which variance belongs to which mean."""

from collections.abc import Sequence
from dataclasses import dataclass

from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import key, update_positions

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """All numbers are places in an update's list of arrays; positions are those in the manifest's list."""

    positions: tuple[int, ...]  # of the arrays that travel
    keys: tuple[str, ...]  # the same, as they name state
    shapes: tuple[Shape, ...]
    trainables: tuple[int, ...]
    statistics: tuple[int, ...]
    variances: dict[int, int | None]  # place of a variance -> place of its mean, None when it has none

    @classmethod
    def of(cls, variables: Sequence[Variable]) -> "Layout":
        positions = update_positions(variables)
        travelling = [variables[p] for p in positions]
        return cls(
            positions=positions,
            keys=tuple(key(p) for p in positions),
            shapes=tuple(tuple(v.shape) for v in travelling),
            trainables=tuple(i for i, v in enumerate(travelling) if v.role == "trainable"),
            statistics=tuple(i for i, v in enumerate(travelling) if v.role == "statistic"),
            variances=_variances(travelling),
        )


def _variances(variables: Sequence[Variable]) -> dict[int, int | None]:
    """`…/moving_variance` and its sibling `…/moving_mean`; of layers whose paths collide the k-th to the k-th."""
    found: dict[int, int | None] = {}
    means: dict[tuple[str, Shape], list[int]] = {}
    for place, variable in enumerate(variables):
        layer, _, name = variable.path.rpartition("/")
        if variable.role == "statistic" and name == "moving_mean":
            means.setdefault((layer, tuple(variable.shape)), []).append(place)
    for place, variable in enumerate(variables):
        layer, _, name = variable.path.rpartition("/")
        if variable.role == "statistic" and name == "moving_variance":
            waiting = means.get((layer, tuple(variable.shape)))
            found[place] = waiting.pop(0) if waiting else None
    return found
