"""One round's merge: begin (with the state kept from the last) → check, add … → result (change, new state).

Pure: no clock, no randomness, no files. One built again after a crash, from the same updates in any order, gives the
same bits: linear reductions add integers, robust ones see the updates in order of node.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dl_mqtt_clients.aggregation.controls import ControlChange
from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.strategies.layout import Layout
from dl_mqtt_clients.aggregation.strategies.norms import global_norm, is_finite
from dl_mqtt_clients.aggregation.strategies.parts import Facts, Share, Update, does
from dl_mqtt_clients.aggregation.strategies.server import run_step
from dl_mqtt_clients.aggregation.strategies.stack import Stack
from dl_mqtt_clients.aggregation.strategies.statistics import StatisticSum
from dl_mqtt_clients.aggregation.strategies.strategy import Strategy
from dl_mqtt_clients.aggregation.strategies.transforms import Scaled, State, Transforms
from dl_mqtt_clients.errors import RefusedError
from dl_mqtt_clients.wire.messages import Variable


@dataclass(frozen=True, slots=True)
class Checked:
    """An update that can be added: nothing about it can fail any more."""

    scaled: Scaled
    share: Share  # the reduction's own
    trainables: Sequence[np.ndarray]
    largest: float  # fixed-point value of share · scale · trainables, see RunningSum
    moments: Sequence[np.ndarray]
    largest_moment: float  # likewise


@dataclass(frozen=True, slots=True)
class Merged:
    """What a round comes to."""

    change: list[np.ndarray]  # float64, one a travelling position: add it to the version
    state: dict[str, np.ndarray]  # to be kept for the next round
    weights: dict[str, float]  # by node: its share of the merge, before the server step (linear reductions only)
    controls: ControlChange | None = None  # what came beside the updates, with SCAFFOLD


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
        self._transforms = Transforms(strategy.transforms, self._state)
        self._records: dict[str, tuple[Scaled, Share]] = {}
        self._max_delta = max_delta
        self._waiting = 0.0  # largest fixed-point value of what is added at the end
        self._statistics = StatisticSum(
            layout,
            [base[p] for p in layout.positions],
            max_delta=max_delta,
            max_weight=float(max_examples) * max_updates,
        )
        self._shapes = [layout.shapes[place] for place in layout.trainables]
        weight = float(getattr(strategy.reduction, "max_weight", max_examples))
        self._bits = scale_bits(max_abs=max_delta, max_weight=weight * max_updates)
        self._sum = RunningSum(self._shapes if strategy.is_linear else [], bits=self._bits)

    @property
    def needs_updates(self) -> bool:
        """Whether `result` must be given all updates again; otherwise each is added as it comes."""
        return not self.strategy.is_linear or self._transforms.look_ahead

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
        scaled = self._transforms.scale(update.facts, lambda: global_norm(trainables))
        share, largest = Share(1), 0.0
        if self.strategy.is_linear:
            share = self.strategy.reduction.weigh(update.facts)  # type: ignore[union-attr]
            if share.weight != 0:
                reserved = self._waiting + sum(c.largest for c in before)
                largest = self._sum.check(
                    trainables,
                    share.weight,
                    scale=share.scale * scaled.scale,
                    reserved=reserved,
                    at_most=scaled.norm if scaled.norm <= self._max_delta else None,  # no value is larger than the norm
                )
        elif not math.isfinite(scaled.scale) or not is_finite(trainables):
            raise RefusedError("update holds NaN or infinity")
        moments = self._statistics.moments(update.arrays, self._transforms.scale_of_statistics(scaled))
        reserved = sum(c.largest_moment for c in before)
        largest_moment = self._statistics.check(moments, update.examples, reserved=reserved)
        return Checked(scaled, share, trainables, largest, moments, largest_moment)

    def add(self, update: Update | Checked) -> None:
        """Count an update: a linear reduction adds it, a robust one takes note. RefusedError, and nothing changed."""
        checked = self.check(update) if isinstance(update, Update) else update
        facts, share = checked.scaled.facts, checked.share
        if facts.node in self._records:
            raise RefusedError(f"an update of {facts.node} is counted already")
        if self.needs_updates:
            self._waiting += checked.largest
        elif share.weight != 0:
            scale = share.scale * checked.scaled.scale
            self._sum.add(checked.trainables, weight=share.weight, scale=scale, largest=checked.largest)
        self._statistics.add(checked.moments, facts.examples, largest=checked.largest_moment)
        self._records[facts.node] = checked.scaled, share

    # ---- the end ----

    def result(self, updates: Iterable[Update] = ()) -> Merged:
        """Merge what was added. When `needs_updates`, all of them again, in any order, memory-mapped.

        RefusedError when too few were added for the strategy, or none has a weight.
        """
        nodes = sorted(self._records)
        least = max(self.strategy.min_updates, 1)
        if len(nodes) < least:
            raise RefusedError(f"{self.strategy}: expected at least {least} updates. Received: {len(nodes)}")
        shares = [self._records[node][1] for node in nodes]
        scaled = self._transforms.settle([self._records[node][0] for node in nodes])
        if self.strategy.is_linear:
            total = self._late_sum(scaled, shares, updates) if self.needs_updates else self._sum
            trainables = self._mean(total, [s.facts for s in scaled])
        else:
            trainables = self._reduced(scaled, updates)
        state = run_step(self.strategy.step, trainables, self._layout, self._state) | self._transforms.next(scaled)
        by_place = dict(zip(self._layout.trainables, trainables, strict=True))
        by_place |= dict(zip(self._layout.statistics, self._statistics.change(), strict=True))
        return Merged([by_place[place] for place in range(len(by_place))], state, self._weights(nodes, shares))

    # ---- inside ----

    def _mean(self, total: RunningSum, facts: Sequence[Facts]) -> list[np.ndarray]:
        if not total.updates:
            raise RefusedError(f"{self.strategy}: expected an update of a weight above 0. Received: none")
        mean = total.mean()
        if does(self.strategy.reduction, "factor"):
            factor: Callable[[Sequence[Facts]], float] = self.strategy.reduction.factor  # type: ignore[union-attr]
            scale = factor(facts)
            for array in mean:
                np.multiply(array, scale, out=array)
        return mean

    def _late_sum(self, scaled: Sequence[Scaled], shares: Sequence[Share], updates: Iterable[Update]) -> RunningSum:
        """All added at once, one after the other: their scales were not known before."""
        total = RunningSum(self._shapes, bits=self._bits)
        known = {s.facts.node: (share, s.scale) for s, share in zip(scaled, shares, strict=True)}
        for update in updates:
            share, scale = known.pop(update.node, (None, 0.0))
            if share is None:
                raise ValueError(f"updates: expected each added one once. Received: {update.node}")
            if share.weight != 0:
                trainables = [update.arrays[place] for place in self._layout.trainables]
                total.add(trainables, weight=share.weight, scale=share.scale * scale)
        if known:
            raise ValueError(f"updates: expected those of all added nodes. Missing: {sorted(known)}")
        return total

    def _reduced(self, scaled: Sequence[Scaled], updates: Iterable[Update]) -> list[np.ndarray]:
        arrays = {u.node: [u.arrays[place] for place in self._layout.trainables] for u in updates}
        if sorted(arrays) != [s.facts.node for s in scaled]:
            raise ValueError(f"updates: expected those of {len(scaled)} added nodes. Received: {sorted(arrays)}")
        stack = Stack([s.facts for s in scaled], [arrays[s.facts.node] for s in scaled], [s.scale for s in scaled])
        reduced = [np.array(a, np.float64) for a in self.strategy.reduction.reduce(stack)]  # type: ignore[union-attr]
        if [a.shape for a in reduced] != self._shapes:
            raise ValueError(f"{self.strategy.reduction}: expected arrays of the trainables' shapes")
        return reduced

    def _weights(self, nodes: Sequence[str], shares: Sequence[Share]) -> dict[str, float]:
        total = math.fsum(share.weight for share in shares)
        weights = zip(nodes, shares, strict=True) if self.strategy.is_linear else ()
        return {node: share.weight / total for node, share in weights}
