"""Agreeing on a scaler and on vocabularies: trainers tell sums over their readings' features, the manager makes them.

A new scaler opens a new lineage, since weights learnt under another one cannot be averaged with those that follow.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.aggregation.scaler import Scaler, scaler_from
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts, padded, vocabulary_from
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.feature_sums import FeatureReport

log = logging.getLogger(__name__)


class Rescaling:
    """While `is_open` no round is: the announcement says `scaling`. `on_agreed(scaler, nodes)` ends it.

    Waits for all live trainers, at most for `scaling.deadline_s`; then `scaling.min_nodes` are enough. With fewer it
    waits on, since their sums would tell too much of each.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        versions: Versions,
        settings: Settings,
        roster: Roster,
        on_agreed: Callable[[Scaler, dict[str, int]], None],
    ) -> None:
        self._loop, self._store, self._versions, self._roster = loop, store, versions, roster
        self._settings, self._on_agreed = settings, on_agreed
        self._heard: dict[str, _Told] = {}
        self.is_open = False

    @property
    def is_wanted(self) -> bool:
        """Whether the present lineage's scaler is to be replaced."""
        scaler = self._store.stages.scaler
        return scaler == "wanted" or (scaler == "given" and self._settings.scaling.federated)

    def ask(self) -> None:
        """A new scaler, as soon as the open round has ended; also after a restart."""
        self._store.write_stages(msgspec.structs.replace(self._store.stages, scaler="wanted"))

    def begin(self) -> None:
        self.is_open, self._heard = True, {}
        self._loop.at("scaling", self._settings.scaling.deadline_s, self._at_deadline)

    def hear(self, node: str, report: FeatureReport) -> None:
        """A node's sums. MessageError when they cannot be any."""
        current = self._versions.current
        if not self.is_open or report.base != current.version or node not in self._roster.live_trainers():
            return
        features, categorical = self._versions.n_features, self._versions.categorical
        try:
            self._heard[node] = _Told.from_message(
                report,
                numeric=features - len(categorical.columns),
                categories=len(categorical.columns),
                max_readings=self._settings.training.window,
            )
        except ValueError as error:
            raise MessageError(str(error)) from error
        self.who_lives_changed()

    def who_lives_changed(self) -> None:
        """All who live may have been heard by now."""
        if self.is_open and self._roster.is_settled and self._roster.live_trainers() <= self._heard.keys():
            self._agree()

    def progress(self) -> str:
        """For people."""
        if not self.is_open:
            return ""
        return f"agreeing on a scaler: {len(self._heard)} of at least {self._settings.scaling.min_nodes} nodes"

    def _at_deadline(self) -> None:
        self._agree()
        if self.is_open:
            self._loop.at("scaling", self._settings.scaling.deadline_s, self._at_deadline)

    def _agree(self) -> None:
        rules = self._settings.scaling
        if len(self._heard) < rules.min_nodes:
            return
        scaler = self._scaler()
        nodes = {node: told.readings for node, told in self._heard.items()}
        self._loop.cancel("scaling")
        self.is_open, self._heard = False, {}
        log.info("scaler of %d nodes; features without one: %s", len(nodes), list(scaler.unscaled) or "none")
        self._on_agreed(scaler, nodes)

    def _scaler(self) -> Scaler:
        rules, vocabulary = self._settings.scaling, self._settings.vocabulary
        features, categorical = self._versions.n_features, self._versions.categorical
        numeric = categorical.numeric(features)
        scaler = Scaler.identity(0)
        if numeric:
            sums = {node: told.numeric for node, told in self._heard.items()}
            scaler = scaler_from(sums, rules.kind, min_nodes=rules.min_nodes)
        listed = [
            vocabulary_from(
                counts, size=categorical.size, min_count=vocabulary.min_count, min_nodes=vocabulary.min_nodes
            )
            for counts in zip(*(told.categories for told in self._heard.values()), strict=True)
        ]
        codes = [padded(codes, categorical.size) for codes in listed]
        return scaler.beside(np.stack(codes) if codes else categorical.none(), numeric, features)


@dataclass(frozen=True, slots=True)
class _Told:
    """What a node said of its readings."""

    readings: int
    numeric: FeatureStatistics
    categories: tuple[CategoryCounts, ...]

    @classmethod
    def from_message(cls, report: FeatureReport, *, numeric: int, categories: int, max_readings: int) -> Self:
        """ValueError when the sums cannot be any, are of other features, or of no reading: that is no contributor."""
        if len(report.categories) != categories:
            raise ValueError(f"vocabulary: expected {categories} features. Received: {len(report.categories)}")
        sums = FeatureStatistics.from_message(report.features, features=numeric, max_readings=max_readings)
        counts = tuple(CategoryCounts.from_message(part, max_readings=max_readings) for part in report.categories)
        readings = max([*sums.count.tolist(), *(part.total for part in counts)], default=0)
        if not (sums.count.any() if numeric else readings):
            raise ValueError("feature statistics: expected at least one finite value. Received: none")
        return cls(readings, sums, counts)
