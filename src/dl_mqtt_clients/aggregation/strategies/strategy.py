"""A strategy: how updates become a version. server step @ reduction @ transforms, read as it computes."""

from dataclasses import dataclass, field
from typing import Final

from dl_mqtt_clients.aggregation.strategies.fedavg import FedAvg
from dl_mqtt_clients.aggregation.strategies.mean import Mean
from dl_mqtt_clients.aggregation.strategies.parts import Reduction, Step, Transform, does
from dl_mqtt_clients.errors import ConfigurationError

_STEP, _REDUCTION, _TRANSFORM = 0, 1, 2
_ALL = (_STEP, _REDUCTION, _TRANSFORM)
_FEDAVG: Final = FedAvg()
_MEAN: Final = Mean()


@dataclass(frozen=True, slots=True)
class Strategy:
    """`FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)`; what is left out is FedAvg() @ Mean(), no transforms.

    `transforms` are in the order in which they are applied to an update, that is from right to left as written.
    """

    step: Step = _FEDAVG
    reduction: Reduction = _MEAN
    transforms: tuple[Transform, ...] = ()
    _given: tuple[int, ...] = field(default=_ALL, compare=False, repr=False)  # which parts were written down

    def __post_init__(self) -> None:
        names = ("step", "reduction", *(f"transforms[{i}]" for i in range(len(self.transforms))))
        kinds = ("server step", "reduction", *("transform" for _ in self.transforms))
        parts = (self.step, self.reduction, *self.transforms)
        ranks = (_STEP, _REDUCTION, *(_TRANSFORM for _ in self.transforms))
        wrong = [
            f"strategy.{name}: expected a {kind}. Received: {part!r}"
            for name, kind, part, rank in zip(names, kinds, parts, ranks, strict=True)
            if _kinds(part) != [rank]
        ]
        if wrong:
            raise ConfigurationError(wrong)

    @property
    def is_linear(self) -> bool:
        """Whether updates are added as they come; otherwise all are read, memory-mapped, at the end."""
        return does(self.reduction, "weigh")

    @property
    def weighs_staleness(self) -> bool:
        """Whether an old update counts less than a new one, as asynchronous rounds need it."""
        return any(getattr(transform, "weighs_staleness", False) for transform in self.transforms)

    @property
    def min_updates(self) -> int:
        """Fewest updates it can merge: a quorum must not be lower."""
        return int(getattr(self.reduction, "min_updates", 1))

    def __matmul__(self, other: object) -> "Strategy":
        return compose(self, other)

    def __rmatmul__(self, other: object) -> "Strategy":
        return compose(other, self)

    def __str__(self) -> str:
        return " @ ".join(map(str, (self.step, self.reduction, *reversed(self.transforms))))


def of_part(part: object) -> Strategy:
    """A single part as a strategy, the rest left out. ConfigurationError when it is not a part."""
    match _kinds(part):
        case [0]:
            return Strategy(step=part, _given=(_STEP,))  # type: ignore[arg-type]
        case [1]:
            return Strategy(reduction=part, _given=(_REDUCTION,))  # type: ignore[arg-type]
        case [2]:
            return Strategy(transforms=(part,), _given=(_TRANSFORM,))  # type: ignore[arg-type]
    words = "a server step (apply), a reduction (weigh or reduce) or a transform (scale)"
    raise ConfigurationError([f"strategy: expected {words}. Received: {part!r}"])


def compose(left: object, right: object) -> Strategy:
    """`left @ right`. ConfigurationError unless it is at most one step, at most one reduction, then transforms."""
    a = left if isinstance(left, Strategy) else of_part(left)
    b = right if isinstance(right, Strategy) else of_part(right)
    last, first = a._given[-1], b._given[0]  # noqa: SLF001 - of the same class
    if not (last < first or last == first == _TRANSFORM):
        raise ConfigurationError([f"strategy: expected step @ reduction @ transforms. Received: {left} @ {right}"])
    return Strategy(
        step=a.step if first > _STEP else b.step,
        reduction=b.reduction if _REDUCTION in b._given else a.reduction,  # noqa: SLF001
        transforms=(*b.transforms, *a.transforms),
        _given=tuple(sorted({*a._given, *b._given})),  # noqa: SLF001
    )


def _kinds(part: object) -> list[int]:
    kinds = {"apply": _STEP, "weigh": _REDUCTION, "reduce": _REDUCTION, "scale": _TRANSFORM}
    return [kind for method, kind in kinds.items() if does(part, method)]
