"""A trainer's word while a scaler is being agreed on: sums over the features of its readings, never a reading."""

import random
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from dl_mqtt_clients.aggregation.feature_statistics import FeatureStatistics
from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.wire.feature_sums import FeatureReport
from dl_mqtt_clients.wire.messages import Round

AGAIN_AFTER_S: Final = 5.0  # nobody relies on delivery


class Describing:
    """Tells, and tells again while the manager asks. `send(report)` says whether it left; `again()` asks for it."""

    def __init__(self, loop: Loop, *, send: Callable[[FeatureReport], bool], again: Callable[[], None]) -> None:
        self._loop, self._send, self._again = loop, send, again
        self._told = ""  # of this base

    def heard(self) -> None:
        """A round was announced, perhaps by a manager that knows nothing of us."""
        self._told = ""

    def is_due(self, announced: Round) -> bool:
        """Whether the manager asks, and was not told just now."""
        told = self._told == announced.base and self._loop.pending("describe")
        return announced.phase == "scaling" and not told

    def describe(self, announced: Round, readings: np.ndarray, categorical: Sequence[int] = ()) -> None:
        """Readings [n, features]: those that training would use; `categorical`: which features are."""
        report = FeatureReport(
            base=announced.base,
            readings=len(readings),
            features=FeatureStatistics.of(np.delete(readings, categorical, axis=1)).to_message(),
            categories=tuple(CategoryCounts.of(readings[:, column]).to_message() for column in categorical),
        )
        if self._send(report):
            self._told = announced.base
            self._loop.at("describe", AGAIN_AFTER_S * random.uniform(0.75, 1.25), self._again)
