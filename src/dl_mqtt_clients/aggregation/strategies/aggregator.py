"""One round's merge: begin (with the state kept from the last) → check, add … → result (change, new state).

Pure: no clock, no randomness, no files. One built again after a crash, from the same updates in any order, gives the
same bits: linear reductions add integers, robust ones see the updates in order of node.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.strategies.layout import Layout
from dl_mqtt_clients.aggregation.strategies.norms import global_norm, is_finite
from dl_mqtt_clients.aggregation.strategies.parts import Facts, Share, Update, does
from dl_mqtt_clients.aggregation.strategies.server import State, next_states, run_step, transform_states
from dl_mqtt_clients.aggregation.strategies.stack import Stack
from dl_mqtt_clients.aggregation.strategies.statistics import StatisticSum
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy
from dl_mqtt_clients.errors import RefusedError
from dl_mqtt_clients.wire.messages import Variable


@dataclass(frozen=True, slots=True)
class Checked:
    """An update that can be added: nothing about it can fail any more."""

    facts: Facts
    scales: tuple[float, ...]  # what each transform answered
    share: Share  # scale includes the transforms'
    trainables: Sequence[np.ndarray]
    largest: float  # fixed-point value, see RunningSum
    moments: Sequence[np.ndarray]
    largest_moment: float  # likewise


@dataclass(frozen=True, slots=True)
class _Record:
    facts: Facts
    scales: tuple[float, ...]
    share: Share


@dataclass(frozen=True, slots=True)
class Merged:
    """What a round comes to."""

    change: list[np.ndarray]  # float64, one a travelling position: add it to the version
    state: dict[str, np.ndarray]  # to be kept for the next round
    weights: dict[str, float]  # by node: its share of the merge, before the server step (linear reductions only)


class Aggregator:
    """`base`: the version's weights, one a position of `variables`. `state`: the last round's, None at first.

    max_delta, max_examples, max_updates bound what may be added, and so the resolution of the running sum.
    """

    def __init__(
        self,
        strategy: Strategy,
        variables: Sequence[Variable],
        *,
        base: Sequence[np.ndarray],
        state: State | None = None,
        max_delta: float,
        max_examples: int,
        max_updates: int,
    ) -> None:
        self.strategy = strategy
        self._layout = layout = Layout.of(variables)
        self._state = state or {}
        self._states = transform_states(strategy.transforms, self._state)
        self._records: dict[str, _Record] = {}
        self._statistics = StatisticSum(
            layout,
            [base[p] for p in layout.positions],
            max_delta=max_delta,
            max_weight=float(max_examples) * max_updates,
        )
        shapes = [layout.shapes[place] for place in layout.trainables] if strategy.is_linear else []
        weight = float(getattr(strategy.reduction, "max_weight", max_examples))
        self._sum = RunningSum(shapes, bits=scale_bits(max_abs=max_delta, max_weight=weight * max_updates))

    # ---- updates ----

    def check(self, update: Update, *, before: Sequence[Checked] = ()) -> Checked:
        """RefusedError says why the update cannot be counted; nothing is changed.

        `before`: what was checked already and will be added first.
        """
        if update.node in self._records:
            raise RefusedError(f"an update of {update.node} is counted already")
        if [a.shape for a in update.arrays] != list(self._layout.shapes):
            raise RefusedError("update has other shapes than the model")
        trainables = [update.arrays[place] for place in self._layout.trainables]
        scales = self._scales(update.facts, trainables)
        share, largest = Share(1, math.prod(scales)), 0.0
        if self.strategy.is_linear:
            own: Share = self.strategy.reduction.weigh(update.facts)  # type: ignore[union-attr]
            share = Share(own.weight, own.scale * share.scale)
            if share.weight != 0:
                reserved = sum(c.largest for c in before)
                largest = self._sum.check(trainables, share.weight, scale=share.scale, reserved=reserved)
        elif not math.isfinite(share.scale) or not is_finite(trainables):
            raise RefusedError("update holds NaN or infinity")
        moments = self._statistics.moments(update.arrays, self._scale_of_statistics(scales))
        reserved = sum(c.largest_moment for c in before)
        largest_moment = self._statistics.check(moments, update.examples, reserved=reserved)
        return Checked(update.facts, scales, share, trainables, largest, moments, largest_moment)

    def add(self, update: Update | Checked) -> None:
        """Count an update: a linear reduction adds it, a robust one takes note. RefusedError, and nothing changed."""
        checked = self.check(update) if isinstance(update, Update) else update
        if checked.facts.node in self._records:
            raise RefusedError(f"an update of {checked.facts.node} is counted already")
        share = checked.share
        if self.strategy.is_linear and share.weight != 0:
            self._sum.add(checked.trainables, weight=share.weight, scale=share.scale, largest=checked.largest)
        self._statistics.add(checked.moments, checked.facts.examples, largest=checked.largest_moment)
        self._records[checked.facts.node] = _Record(checked.facts, checked.scales, share)

    # ---- the end ----

    def result(self, updates: Iterable[Update] = ()) -> Merged:
        """Merge what was added. A robust reduction needs all of `updates` again, in any order, memory-mapped.

        RefusedError when too few were added for the strategy, or none has a weight.
        """
        records = [self._records[node] for node in sorted(self._records)]
        least = max(self.strategy.min_updates, 1)
        if len(records) < least:
            raise RefusedError(f"{self.strategy}: expected at least {least} updates. Received: {len(records)}")
        trainables = self._mean(records) if self.strategy.is_linear else self._reduced(records, updates)
        state = run_step(self.strategy.step, trainables, self._layout, self._state)
        state |= next_states(self.strategy.transforms, self._states, [r.scales for r in records])
        by_place = dict(zip(self._layout.trainables, trainables, strict=True))
        by_place |= dict(zip(self._layout.statistics, self._statistics.change(), strict=True))
        return Merged([by_place[place] for place in range(len(by_place))], state, self._weights(records))

    # ---- inside ----

    def _scales(self, facts: Facts, trainables: Sequence[np.ndarray]) -> tuple[float, ...]:
        norms: list[float] = []  # measured when first asked for
        scales: list[float] = []

        def norm() -> float:
            if not norms:
                norms.append(global_norm(trainables))
            return norms[0] * math.prod(scales)

        for transform, state in zip(self.strategy.transforms, self._states, strict=True):
            scales.append(float(transform.scale(facts, norm, state)))
        return tuple(scales)

    def _scale_of_statistics(self, scales: Sequence[float]) -> float:
        pairs = zip(self.strategy.transforms, scales, strict=True)
        return math.prod(scale for transform, scale in pairs if getattr(transform, "statistics", False))

    def _mean(self, records: Sequence[_Record]) -> list[np.ndarray]:
        if not self._sum.updates:
            raise RefusedError(f"{self.strategy}: expected an update of a weight above 0. Received: none")
        mean = self._sum.mean()
        if does(self.strategy.reduction, "factor"):
            factor: Callable[[Sequence[Facts]], float] = self.strategy.reduction.factor  # type: ignore[union-attr]
            scale = factor([r.facts for r in records])
            for array in mean:
                np.multiply(array, scale, out=array)
        return mean

    def _reduced(self, records: Sequence[_Record], updates: Iterable[Update]) -> list[np.ndarray]:
        arrays = {u.node: [u.arrays[place] for place in self._layout.trainables] for u in updates}
        if sorted(arrays) != [r.facts.node for r in records]:
            raise ValueError(f"updates: expected those of {len(records)} added nodes. Received: {sorted(arrays)}")
        stack = Stack(
            [r.facts for r in records], [arrays[r.facts.node] for r in records], [r.share.scale for r in records]
        )
        reduced = [np.array(a, np.float64) for a in self.strategy.reduction.reduce(stack)]  # type: ignore[union-attr]
        shapes = [self._layout.shapes[place] for place in self._layout.trainables]
        if [a.shape for a in reduced] != shapes:
            raise ValueError(f"{self.strategy.reduction}: expected arrays of the trainables' shapes")
        return reduced

    def _weights(self, records: Sequence[_Record]) -> dict[str, float]:
        total = math.fsum(r.share.weight for r in records)
        return {r.facts.node: r.share.weight / total for r in records} if self.strategy.is_linear else {}
