"""What a strategy is made of, as values and Protocols: step @ reduction @ transforms.

A part of your own needs no base class: a frozen dataclass with the one method that says what it is will do.
Inherit from `Part` to compose it with `@` from the left, and to have its `Annotated` ranges checked.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

from dl_mqtt_clients.aggregation.strategies.ranges import field_mistakes
from dl_mqtt_clients.config.mistakes import Mistake
from dl_mqtt_clients.errors import ConfigurationError

if TYPE_CHECKING:
    from dl_mqtt_clients.aggregation.strategies.stack import Stack
    from dl_mqtt_clients.aggregation.strategies.strategy import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is kept of an update: a small record a node."""

    node: str
    examples: int  # n_k ≥ 1, capped by the manager: it is the node's own word
    staleness: int = 0  # versions between the update's base and now
    steps: int = 1  # τ_k ≥ 1 local optimizer steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a trainer offered: one array (a view, perhaps memory-mapped) a position that travels, in their order."""

    node: str
    arrays: Sequence[np.ndarray]  # change from the base, float32
    examples: int
    staleness: int = 0
    steps: int = 1

    @property
    def facts(self) -> Facts:
        return Facts(node=self.node, examples=self.examples, staleness=self.staleness, steps=self.steps)


@dataclass(frozen=True, slots=True)
class Share:
    """An update's part in a linear merge: Σ weight·scale·update / Σ weight. Weight 0 leaves it out."""

    weight: float  # ≥ 0
    scale: float = 1.0


class Step(Protocol):
    """Server step: what the version moves by, given what the updates say. Trainables only, coordinate by coordinate."""

    @property
    def slots(self) -> Mapping[str, float]:
        """State a coordinate: name -> value before the first round."""
        ...

    def apply(self, change: np.ndarray, slots: Mapping[str, np.ndarray]) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """A piece of the reduced change and of each slot, [any] float64 -> the piece to add, and the slots' new ones.

        It must not depend on how the model is cut into pieces, and must not write to what it is given.
        """
        ...


class Linear(Protocol):
    """Reduction that adds each update as it comes: memory is one model, the result exact in any order.

    Optional: `max_weight` (largest weight · scale it gives; by default the cap of examples) and
    `factor(all facts, in order of node) -> float`, by which the mean is multiplied at the end.
    """

    def weigh(self, update: Facts) -> Share: ...


class Rescaled(Protocol):
    """Linear reduction with a factor that depends on all updates (FedNova's τ_eff)."""

    def factor(self, updates: Sequence[Facts]) -> float: ...


class Robust(Protocol):
    """Reduction that must see all updates at once; it reads them memory-mapped, a block of columns at a time.

    Optional: `min_updates`, fewest updates it can work with.
    """

    def reduce(self, stack: "Stack") -> list[np.ndarray]:
        """Updates -> one change, float64, one array a trainable. `stack` is in order of node, whoever came first."""
        ...


class Transform(Protocol):
    """Multiplies the trainables of one update by a number.

    Optional: `statistics` = True when statistics are multiplied too; `weighs_staleness` = True when it answers less for
    an old update; `initial` and `next` (see Adaptive).
    """

    def scale(self, update: Facts, norm: Callable[[], float], state: Mapping[str, float]) -> float:
        """`norm()` is the global L2 norm over the trainables, after the transforms before this one."""
        ...


class Adaptive(Protocol):
    """Transform that learns from round to round.

    Optional: `looks_ahead` = True when its first round is scaled by what it learns from that round itself: the merge
    then reads all updates at the end. Not together with `statistics`.
    """

    def initial(self) -> Mapping[str, float]: ...

    def next(self, state: Mapping[str, float], norms: Sequence[float]) -> Mapping[str, float]:
        """The state after a round of updates of these norms, as it met them, in order of node."""
        ...


Reduction = Linear | Robust


def does(part: object, method: str) -> bool:
    """Whether a part has this method: what kind of part it is, or which optional one it brings."""
    return not isinstance(part, type) and callable(getattr(part, method, None))


class Part:
    """Checks the fields' ranges, and composes: `FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        found = field_mistakes(type(self), values)
        if found:
            name = type(self).__name__
            raise ConfigurationError([Mistake((name, *m.path), m.expected, m.received).text() for m in found])

    def __matmul__(self, other: object) -> "Strategy":
        from dl_mqtt_clients.aggregation.strategies.strategy import compose  # noqa: PLC0415 - it imports the parts

        return compose(self, other)

    def __rmatmul__(self, other: object) -> "Strategy":
        from dl_mqtt_clients.aggregation.strategies.strategy import compose  # noqa: PLC0415 - it imports the parts

        return compose(other, self)
