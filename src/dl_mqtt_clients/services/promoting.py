"""The newest version on its way into production: what the nodes find with it is added up, and then it is promoted."""

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from dl_mqtt_clients.aggregation.evaluation import Evaluation
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Statistics

log = logging.getLogger(__name__)

MOST_STATISTICS: Final = 4096  # nodes whose statistics are kept though no status of theirs was heard
LATE_S: Final = 0.3  # statistics that come after the promotion are looked at together


class Promoting:
    """`on_production()` runs when what is in production has changed, in version, threshold or metrics."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        versions: Versions,
        settings: Settings,
        roster: Roster,
        on_production: Callable[[], None],
    ) -> None:
        self._loop, self._store, self._versions, self._roster = loop, store, versions, roster
        self._settings, self._on_production = settings, on_production
        self._measuring: set[str] = set()  # predictors whose streams have labels
        self._evaluation = Evaluation(versions.current.version)

    def begin(self) -> None:
        """The newest version is another one: ask what the nodes find with it."""
        self._evaluation = Evaluation(self._versions.current.version)
        self._loop.at("promote", self._settings.rounds.statistics_deadline_s, self.finish)

    def resume(self) -> None:
        """After a start: a former process may have been killed before it promoted."""
        if self._versions.unpromoted and self._versions.current.number:
            self._loop.at("promote", self._settings.rounds.statistics_deadline_s, self.finish)

    def finish(self) -> None:
        """No more is waited for: promote the newest version with what is known."""
        if self._versions.unpromoted and self._versions.current.number:
            self._promote()

    @property
    def is_done(self) -> bool:
        """Whether the newest version is in production, and nobody who measured earlier ones may still tell of it."""
        if self._versions.unpromoted:
            return False
        expected = len(self._measuring & self._roster.live_nodes())
        complete = self._evaluation.nodes("predictor") >= expected
        return not self._loop.pending("late statistics") and (complete or not self._loop.pending("measured"))

    def hear(self, node: str, role: str, statistics: Statistics) -> None:
        """What a node found. MessageError when the histograms are not ours."""
        if statistics.version != self._evaluation.version or not self._may_count(node):
            return
        try:
            self._evaluation.add(node, role, statistics)
        except ValueError as error:
            raise MessageError(str(error)) from error
        if role == "predictor":
            self._measuring.add(node)
        if not self._versions.unpromoted:
            self._loop.at("late statistics", LATE_S, self._promote)
        elif self._has_heard_all():
            self._promote()

    def _has_heard_all(self) -> bool:
        """Whether no more statistics of the newest version can be waited for; the base waits for readings as well."""
        known = self._versions.current.number > 0 or self._evaluation.threshold(0.5) is not None
        return known and self._evaluation.nodes("trainer") >= max(len(self._roster.live_trainers()), 1)

    def _may_count(self, node: str) -> bool:
        """Statistics are kept until the next version, kilobytes a node: not those of any number of strangers."""
        many = self._evaluation.nodes("trainer") + self._evaluation.nodes("predictor") >= MOST_STATISTICS
        return self._roster.is_known(node) and (not many or node in self._roster.live_nodes())

    def _promote(self) -> None:
        """Publish the newest version for production, with the threshold its nodes' statistics give."""
        self._loop.cancel("promote")
        if self._versions.unpromoted:
            self._loop.at("measured", self._settings.rounds.statistics_deadline_s, lambda: None)
        threshold = self._settings.threshold.value
        if threshold is None:
            threshold = self._evaluation.threshold(self._settings.threshold.quantile)
        metrics = self._evaluation.metrics(self._versions.current.metrics)
        if not self._versions.promote(threshold=threshold, metrics=metrics):
            return
        production = self._versions.production
        last = next(iter(self._store.history(1)), None)
        if production is not None and last is not None and last.version == production.version:
            threshold = production.threshold
            self._store.append_history(msgspec.structs.replace(last, metrics=metrics, threshold=threshold))
        self._on_production()
