"""What a trainer learns from: the newest readings of its stream, or a data set instead of a stream."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.arrivals import Span
from dl_mqtt_clients.data.window import Snapshot, Window
from dl_mqtt_clients.errors import ModelError, StateError
from dl_mqtt_clients.services.arrival_times import ArrivalTimes
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.wire.messages import Task

log = logging.getLogger(__name__)

HELDOUT: Final = 4096  # newest held-out readings scored for each version


class ToLearn(NamedTuple):
    """What a task can learn from."""

    x: np.ndarray  # [n, features]
    y: np.ndarray | None  # [n]
    used: int  # how many readings ever came until then
    came: Span  # when those of the window came, whether or not the task can use them all


class HeldReadings:
    """A window over the stream, once a model says how many features there are. `on_problem(text)` tells of the disk."""

    def __init__(
        self,
        settings: Settings,
        *,
        folder: Path,
        readings: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        on_problem: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self.stream: ReadingStream | None = None
        self.window: Window | None = None
        self.is_fixed = readings is not None
        self._settings, self._folder, self._on_problem = settings, folder, on_problem
        self._times: ArrivalTimes | None = None  # of a stream's readings
        if readings is not None:
            self.window = self._fixed(readings, labels)

    def __len__(self) -> int:
        return len(self.window or ())

    @property
    def total(self) -> int:
        """Readings that ever came."""
        return 0 if self.window is None else self.window.total

    def check(self, features: int) -> None:
        """ModelError when a data set has other features than the model."""
        if self.is_fixed and self.window is not None and self.window.features != features:
            have = self.window.features
            raise ModelError(f"model: expected {have} features, as the readings have. Received: {features}")

    def open(self, features: int) -> None:
        """Begin to hold readings of so many features, with those that an earlier process held."""
        if self.window is not None and self.window.features == features:
            return
        self._release()
        settings = self._settings.readings
        spool = self._folder / "readings.bin" if settings.spool else None
        try:
            self.window = self._new(settings.buffer, features, spool=spool)
        except StateError as error:
            self._on_problem(str(error))
            log.warning("readings are kept in memory only: %s", error)
            self.window, spool = self._new(settings.buffer, features, spool=None), None
        self._times = ArrivalTimes(spool and spool.with_name("arrivals.json"), total=self.window.total)
        if self.window.set_aside:
            self._on_problem(f"earlier readings set aside: {self.window.set_aside}")

    def take_in(self, most: int) -> bool:
        """Move at most so many readings from the stream into the window; whether there were any."""
        if self.stream is None or self.window is None or self._times is None:
            return False
        batch = self.stream.take(most)
        if batch is not None:
            self.window.append(batch.x, batch.labels)
            self._times.add(self.window.total, *self.stream.taken_came, held=len(self.window))
        return batch is not None

    def to_learn(self, newest: int, task: Task) -> ToLearn:
        """For `supervised` labelled readings; for `anomaly` all that are not labelled anomalous."""
        if self.window is None:
            return ToLearn(np.zeros((0, 0), np.float32), None, 0, Span())
        held = self.window.snapshot(newest)
        came = self._times.span(held.first_index, held.total) if self._times else Span()
        if task == "supervised":
            known = held.labels >= 0
            return ToLearn(held.x[known], held.labels[known], held.total, came)
        return ToLearn(held.x[held.labels <= 0], None, held.total, came)

    def heldout(self) -> Snapshot | None:
        """The newest readings that are never trained on; None before there is a window."""
        return None if self.window is None else self.window.heldout(HELDOUT)

    def close(self) -> None:
        """What waits in the stream now is in the window after a restart."""
        self.take_in(len(self.stream or ()))
        self._release()

    def _release(self) -> None:
        if self.window is not None:
            self.window.close()
        if self._times is not None:
            self._times.save()

    def _fixed(self, readings: np.ndarray, labels: np.ndarray | None) -> Window:
        """Every round learns from all of it."""
        x = np.ascontiguousarray(readings, dtype=np.float32)
        window = self._new(len(x), x.shape[1], spool=None)
        window.append(x, np.full(len(x), -1, np.int8) if labels is None else np.asarray(labels, np.int8))
        return window

    def _new(self, capacity: int, features: int, *, spool: Path | None) -> Window:
        settings = self._settings.readings
        seed = f"{self._settings.federation.seed}/{self._settings.node_id}"
        return Window(
            capacity, features, spool=spool, holdout=settings.holdout, holdout_block=settings.holdout_block, seed=seed
        )
