"""Clean windows: which readings of a stream may be trained on, as a state machine without a clock of its own.

    guarding ─ share above > cap ─► drifted ─ after release_after_s, or an operator's word ─► released
        ▲                              │                                                          │
        └──────────── share above ≤ cap / 2 (the attack is over, or the new normal is learnt) ◄───┘

*guarding*: readings far above the alert threshold stay out of the training window. *drifted*: so many are above that
either an attack goes on or normality has changed; nobody here can tell, so they still stay out, the node reports drift
and takes no part in rounds. *released*: everything is let in, until the model has learnt it and few are above again.
"""

from dataclasses import dataclass, field, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from dl_mqtt_clients.errors import DataError

Phase = Literal["guarding", "drifted", "released"]
Flags = NDArray[np.bool_]

_BACK_AT: Final = 0.5  # of the cap: else a share near it would change the phase with every batch


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRules:
    """DataError for values out of range."""

    recent: int = 1000  # newest readings whose share counts, ≥ 1
    cap: float = 0.2  # largest share of them above the limit, 0 < cap < 1
    release_after_s: float = 3600.0  # of drift until the new normal is let in, ≥ 0; infinite: only by an operator

    def __post_init__(self) -> None:
        if self.recent < 1 or not 0.0 < self.cap < 1.0 or not self.release_after_s >= 0.0:
            raise DataError(
                "quarantine: expected recent ≥ 1, 0 < cap < 1 and release_after_s ≥ 0. "
                f"Received: {self.recent}, {self.cap}, {self.release_after_s}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Quarantine:
    """State after some readings. Times are those of any clock that does not go back."""

    rules: QuarantineRules
    phase: Phase = "guarding"
    since_s: float = 0.0  # when the phase began
    kept_out: int = 0  # readings, ever
    flags: Flags = field(default_factory=lambda: np.zeros(0, np.bool_))  # of the recent ones, oldest first

    @property
    def share(self) -> float:
        """Of the recent readings, those above the limit: 0…1. What is not there yet counts as not above."""
        return float(self.flags.sum()) / self.rules.recent

    @property
    def may_train(self) -> bool:
        """Whether the node should take part in rounds."""
        return self.phase != "drifted"

    @property
    def release_at_s(self) -> float | None:
        """When the new normal is let in by itself; None while nothing is waited for."""
        return self.since_s + self.rules.release_after_s if self.phase == "drifted" else None

    def admit(self, is_above: Flags, *, now_s: float) -> tuple["Quarantine", Flags]:
        """A batch in order of arrival, [n]: the next state, and which of it may enter the training window, [n].

        `is_above`: score above the limit, a higher quantile than the alert threshold's; NaN scores count as above.
        The phase is the one in which the batch ends: a batch that crosses the cap, or ends drift, is judged as a whole.
        """
        recent = np.concatenate([self.flags, is_above.astype(np.bool_)])[-self.rules.recent :]
        state = replace(self, flags=recent).at(now_s)
        admitted = np.ones(len(is_above), np.bool_) if state.phase == "released" else ~is_above.astype(np.bool_)
        return replace(state, kept_out=state.kept_out + int((~admitted).sum())), admitted

    def at(self, now_s: float) -> "Quarantine":
        """The state at a later time, without new readings."""
        share, cap = self.share, self.rules.cap
        if self.phase != "guarding" and share <= cap * _BACK_AT:
            return self._enter("guarding", now_s)
        if self.phase == "guarding" and share > cap:
            return self._enter("drifted", now_s).at(now_s)
        if self.release_at_s is not None and now_s >= self.release_at_s:
            return self._enter("released", now_s)
        return self

    def released(self, *, now_s: float) -> "Quarantine":
        """An operator's word: what comes now is normal. Without effect while few are above, as there is nothing new."""
        return self._enter("released", now_s)

    def guarded(self, *, now_s: float) -> "Quarantine":
        """An operator's word: it is an attack. `released` ends, and in `drifted` the wait begins anew."""
        return self._enter("drifted" if self.phase == "drifted" else "guarding", now_s)

    def rescored(self, is_above: Flags) -> "Quarantine":
        """After a new model or limit: what the recent readings [≤ recent] are now, oldest first."""
        return replace(self, flags=is_above.astype(np.bool_)[-self.rules.recent :].copy())

    def _enter(self, phase: Phase, now_s: float) -> "Quarantine":
        return replace(self, phase=phase, since_s=now_s)
