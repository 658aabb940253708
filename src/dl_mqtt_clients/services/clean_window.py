"""A clean training window: what scores far above the alert threshold stays out of it, unless it is the new normal.

Judged anew with every fit's base, so that what a better model finds ordinary comes back in. See `data.quarantine`.
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from dl_mqtt_clients.config.agreement import QuarantineSettings
from dl_mqtt_clients.data.quarantine import Quarantine, QuarantineRules

JUDGE_EVERY: Final = 256  # readings, while they drift: scoring the window for each one would be too much

Scores = Callable[[np.ndarray], np.ndarray]


class CleanWindow:
    """`kept_out`: readings of the last window that were not trained on. `clock`: seconds, does not go back."""

    def __init__(self, settings: QuarantineSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        rules = QuarantineRules(
            recent=settings.recent, cap=settings.cap, release_after_s=settings.release_after_s or float("inf")
        )
        self.kept_out = 0
        self._judged = 0  # readings that had come when the window was last judged
        self._clock = clock
        self._state = Quarantine(rules)
        self._released: int | None = None  # how often an operator had said so when we began to listen

    @property
    def drift(self) -> str:
        """Why the node takes no part in rounds; empty when it does."""
        if self._state.may_train:
            return ""
        return f"drift: {self._state.share:.0%} of the newest readings score far above normal"

    @property
    def wait_s(self) -> float | None:
        """Until what is new is let in by itself; None when nothing is waited for."""
        at = self._state.release_at_s
        return None if at is None or at == float("inf") else max(at - self._clock(), 0.0)

    @property
    def is_due(self) -> bool:
        """Whether what is new may be let in by now."""
        return self.wait_s == 0.0

    def hear(self, released: int) -> None:
        """What a round's announcement says of operators' words."""
        if self._released is not None and released > self._released:
            self._state = self._state.released(now_s=self._clock())
        self._released = released

    def select(self, x: np.ndarray, scores: Scores, *, limit: float | None, total: int) -> np.ndarray:
        """Which of the readings [n, features], oldest first, may be trained on: [n]. None while `drift` says why.

        `total`: how many readings ever came; a window that drifts is not judged for every one of them.
        """
        nothing = np.zeros(len(x), np.bool_)
        if self.drift and total < self._judged + JUDGE_EVERY and not self.is_due:
            return nothing
        self._judged = total
        if limit is None:
            self.kept_out = 0
            return ~nothing
        found = scores(x)
        above = ~(found <= limit)  # NaN is above
        self._state = self._state.rescored(above).at(self._clock())
        chosen = ~nothing if self._state.phase == "released" else ~above
        self.kept_out = int((~chosen).sum())
        return chosen if self._state.may_train else nothing
