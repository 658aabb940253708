"""Who is there: the nodes' last statuses, and who of them may take part."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from dl_mqtt_clients.wire.messages import NodeStatus

SILENT_S: Final = 100.0  # a status comes every 30 s; who misses three has died without anybody noticing
MAX_NODES: Final = 50_000  # records: a name costs a stranger nothing


class Roster:
    """One small record a live node and role.

    `allowed`: the ids that may take part; empty: any. `require`: attributes that a node must have for it.

    `changes` grows whenever somebody comes or goes. `is_settled`: whether who is there has had the time to show.
    """

    def __init__(
        self,
        allowed: Sequence[str] = (),
        *,
        require: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changes = 0
        self.is_settled = False
        self._allowed = frozenset(allowed)
        self._require = frozenset(require)
        self._unfit: set[tuple[str, str]] = set()  # those that live without a required attribute
        self._clock = clock
        self._heard: dict[tuple[str, str], float] = {}  # when last, of those that live
        self._swept_at = clock()
        self._live = (0, frozenset[str](), frozenset[str]())  # (changes, trainers, nodes then)

    def heard(self, node: str, role: str, status: NodeStatus | None) -> None:
        """A node's status; None when it was cleared."""
        key, now = (node, role), self._clock()
        if now - self._swept_at > SILENT_S / 10:
            self._forget_silent(now)
        if status is None or status.state in ("lost", "stopped"):
            self.changes += self._heard.pop(key, None) is not None
            self._unfit.discard(key)
        elif key in self._heard or len(self._heard) < MAX_NODES:
            unfit = not self._require.issubset(status.attributes)
            self.changes += key not in self._heard or unfit != (key in self._unfit)
            self._heard[key] = now
            (self._unfit.add if unfit else self._unfit.discard)(key)

    def resume(self) -> None:
        """After a connection was lost: that nobody was heard meanwhile says nothing about the nodes."""
        now = self._clock()
        self._heard = dict.fromkeys(self._heard, now)

    def is_known(self, node: str) -> bool:
        return not self._allowed or node in self._allowed

    def live_trainers(self) -> frozenset[str]:
        """Those that may take part."""
        return self._now()[1]

    def live_nodes(self) -> frozenset[str]:
        return self._now()[2]

    def _now(self) -> tuple[int, frozenset[str], frozenset[str]]:
        """Made anew only after changes: every message asks."""
        if self._live[0] != self.changes:
            trainers = (key for key in self._heard if key[1] == "trainer" and key not in self._unfit)
            fit = frozenset(node for node, _ in trainers if self.is_known(node))
            self._live = (self.changes, fit, frozenset(node for node, _ in self._heard))
        return self._live

    def _forget_silent(self, now: float) -> None:
        self._swept_at = now
        for key in [key for key, heard in self._heard.items() if now - heard > SILENT_S]:
            del self._heard[key]
            self._unfit.discard(key)
            self.changes += 1
