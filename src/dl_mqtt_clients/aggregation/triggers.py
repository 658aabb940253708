"""When a round should open, as a pure function of (state, event, now). Reasons that are set add up: any one opens.

    idle ─ a reason, and `pause_s` since the last round ─► Open(why) ─► running ─ Ended ─► idle

A command opens at once. `wake_at` says when the next Tick is worth sending, so that nobody polls.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dl_mqtt_clients.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerRules:
    """Which reasons open a round. ConfigurationError for values out of range."""

    continuous: bool = False  # one after another
    interval_s: float | None = None  # from the end of one to the next, > 0
    readings: int | None = None  # new ones fleet-wide since the last round opened, ≥ 1
    drifted_nodes: int | None = None  # so many newly report drift, ≥ 1
    pause_s: float = 0.0  # between rounds, whatever the reason but a command; ≥ 0

    def __post_init__(self) -> None:
        given = (self.interval_s, self.readings, self.drifted_nodes)
        if any(value is not None and not value > 0 for value in given) or not 0.0 <= self.pause_s < math.inf:
            received = ", ".join(map(str, (*given, self.pause_s)))
            expected = "interval_s, readings and drifted_nodes above 0 or none, and a finite pause_s ≥ 0"
            raise ConfigurationError([f"rounds: expected {expected}. Received: {received}"])


@dataclass(frozen=True, slots=True)
class Received:
    """A node's count of readings since it started; it falls when the node starts again."""

    node: str
    readings: int


@dataclass(frozen=True, slots=True)
class Drifted:
    """Whether a node reports drift at present."""

    node: str
    is_drifted: bool


@dataclass(frozen=True, slots=True)
class Gone:
    """A node has left: its drift no longer asks for rounds."""

    node: str


@dataclass(frozen=True, slots=True)
class Commanded:
    """An operator wants a round."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The round has closed or was abandoned for good."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Received | Drifted | Gone | Commanded | Ended | Tick


@dataclass(frozen=True, slots=True)
class Open:
    """Open a round; `reason` is for the history."""

    reason: str


@dataclass(frozen=True, slots=True)
class TriggerState:
    rules: TriggerRules
    ended_s: float  # when the last round ended, or the manager started
    is_running: bool = False
    wanted: bool = False  # by an operator, in mid-round
    new_readings: int = 0  # fleet-wide since the last round opened
    totals: Mapping[str, int] = field(default_factory=dict)  # node -> its last word
    drifted: frozenset[str] = frozenset()
    answered: frozenset[str] = frozenset()  # drift of these has had its round

    @property
    def wake_at_s(self) -> float | None:
        """When a Tick could open a round; None: only another event can."""
        rules = self.rules
        if self.is_running:
            return None
        if rules.continuous or self._reason_of_the_fleet():
            return self.ended_s + rules.pause_s
        return None if rules.interval_s is None else self.ended_s + max(rules.interval_s, rules.pause_s)

    def _reason_of_the_fleet(self) -> str:
        """Readings or drift, empty when there are not enough."""
        if self.rules.readings is not None and self.new_readings >= self.rules.readings:
            return f"{self.new_readings} new readings"
        news = sorted(self.drifted - self.answered)
        if self.rules.drifted_nodes is not None and len(news) >= self.rules.drifted_nodes:
            return f"drift on {', '.join(news[:5])}" + (f" and {len(news) - 5} more" if len(news) > 5 else "")
        return ""

    def reason(self, now_s: float) -> str:
        """Why to open a round now; empty when there is none."""
        if self.is_running:
            return ""
        if self.wanted:
            return "command"
        if self.wake_at_s is None or now_s < self.wake_at_s:
            return ""
        return self._reason_of_the_fleet() or ("continuous" if self.rules.continuous else "interval")


def decide(state: TriggerState, event: Event, now_s: float) -> tuple[TriggerState, Open | None]:
    """The next state, and whether to open a round now. `now_s` is of any clock that does not go back."""
    state = _heard(state, event, now_s)
    if not (reason := state.reason(now_s)):
        return state, None
    opened = replace(state, is_running=True, wanted=False, new_readings=0, answered=state.drifted)
    return opened, Open(reason)


def _heard(state: TriggerState, event: Event, now_s: float) -> TriggerState:
    match event:
        case Received(node, readings):
            before = state.totals.get(node, readings)  # its first word only says from where to count
            new = readings - before if readings >= before else readings  # it has started again
            return replace(state, totals={**state.totals, node: readings}, new_readings=state.new_readings + new)
        case Drifted(node, is_drifted=True):
            return replace(state, drifted=state.drifted | {node})
        case Drifted(node):
            return _calm(state, node)
        case Gone(node):
            totals = {other: total for other, total in state.totals.items() if other != node}
            return replace(_calm(state, node), totals=totals)
        case Ended():
            return replace(state, is_running=False, ended_s=now_s)
    return replace(state, wanted=True) if isinstance(event, Commanded) else state


def _calm(state: TriggerState, node: str) -> TriggerState:
    return replace(state, drifted=state.drifted - {node}, answered=state.answered - {node})
