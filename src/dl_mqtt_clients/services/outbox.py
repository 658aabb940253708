"""A trainer's update between fit and receipt, on disk before it is offered, so that a restart offers it again."""

import logging
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.data.arrivals import Span
from dl_mqtt_clients.services.clock import steady_s
from dl_mqtt_clients.services.own_values import OwnValues
from dl_mqtt_clients.wire.messages import MAX_AGE_S, Offer, Round
from dl_mqtt_clients.wire.transfer import chunk, chunk_count, sha256

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.fit import FitResult

log = logging.getLogger(__name__)

FIRST_BACK_OFF_S: Final = 0.5
LAST_BACK_OFF_S: Final = 5.0
ANSWERED: Final = 3  # as if so many offers had gone: who was answered asks again after 4 s only
UNKNOWN: Final = Span()


class _State(msgspec.Struct, kw_only=True):
    offer: Offer | None = None
    generation: int = 0  # of the offer
    used: int = 0  # readings ever appended when the last accepted update's window was taken
    offered_used: int = 0  # the same for the update on offer
    came: Span = UNKNOWN  # when the window of the update on offer came, by our clock
    done: tuple[int, int, int] = (0, 0, 0)  # (generation, round, attempt) taken part in last


class Outbox:
    """At most one update. `load` before use: the folder must be ours by then."""

    def __init__(self, folder: Path) -> None:
        self._state_file = folder / "outbox.json"
        self._data_file = folder / "update.safetensors"
        self.own = OwnValues(folder)
        self._data = b""
        self._attempts = 0
        self._state = _State()

    @property
    def offer(self) -> Offer | None:
        return self._state.offer

    def as_sent(self, offer: Offer, *, inline: bool) -> Offer:
        """Now: the ages of its readings grow while it waits."""
        oldest, newest = (_age(came) for came in self._state.came)
        return msgspec.structs.replace(offer, inline=inline, oldest_age_s=oldest, newest_age_s=newest)

    @property
    def generation(self) -> int:
        """Of the federation the update was made for."""
        return self._state.generation

    @property
    def used(self) -> int:
        return self._state.used

    def store(
        self,
        data: bytes | bytearray,
        announced: Round,
        *,
        result: "FitResult",
        new_readings: int,
        used: int,
        came: Span = UNKNOWN,
        lineage: str = "",
        own: Mapping[str, bytes] | None = None,
    ) -> None:
        """Make the update durable; only then may it be offered. OSError, and nothing to offer, when it cannot be.

        `own`: what the node keeps for itself of it, by name; it counts once the update does.
        """
        offer = Offer(
            round=announced.round,
            attempt=announced.attempt,
            base=announced.base,
            sha256=sha256(data),
            bytes=len(data),
            examples=result.examples,
            new_readings=new_readings,
            steps=max(result.steps, 1),
            metrics={"loss": result.loss},
        )
        state = _State(
            offer=offer,
            generation=announced.generation,
            used=self._state.used,
            offered_used=used,
            came=came,
            done=_key(announced),
        )
        self.own.set_aside(offer.sha256, generation=announced.generation, lineage=lineage, values=own or {})
        write_atomically(self._data_file, data)
        write_atomically(self._state_file, msgspec.json.encode(state))
        self._state, self._data = state, bytes(data)
        self._attempts = 0

    def done(self, announced: Round) -> None:
        """Take part in this round attempt no more."""
        self._state.done = _key(announced)
        self._save()

    def is_done(self, announced: Round) -> bool:
        return self._state.done == _key(announced)

    def is_older(self, announced: Round) -> bool:
        """Whether it came before the one taken part in last."""
        return _key(announced) < self._state.done

    def used_up(self) -> None:
        """The update was accepted: its readings are no longer new, and what we keep of it for ourselves counts."""
        self._state.used = self._state.offered_used
        if self._state.offer is not None:
            self.own.adopt(self._state.offer.sha256)

    @property
    def must_know(self) -> bool:
        """Whether something of ours depends on what became of the update, even after its round."""
        return self._state.offer is not None and self.own.is_set_aside(self._state.offer.sha256)

    def drop(self) -> None:
        self._state.offer = None
        self._data = b""
        self._save()

    def chunks(self, chunk_bytes: int) -> int:
        return chunk_count(len(self._data), chunk_bytes)

    def chunk(self, index: int, chunk_bytes: int) -> memoryview:
        return chunk(self._data, index, chunk_bytes)

    def answered(self) -> None:
        """The manager lives and knows of the offer: no need to press it."""
        self._attempts = ANSWERED

    def reconnected(self) -> None:
        """What was on its way may be lost: be quick again."""
        self._attempts = 0

    def back_off_s(self) -> float:
        """Until the offer is repeated: doubles with every offer not answered, jittered."""
        pause_s = min(FIRST_BACK_OFF_S * 2.0**self._attempts, LAST_BACK_OFF_S)
        self._attempts += 1
        return float(pause_s) * random.uniform(0.75, 1.25)

    def load(self) -> None:
        """What a former process left; an update whose bytes are not what was offered is not offered again."""
        try:
            self._state = msgspec.json.decode(self._state_file.read_bytes(), type=_State)
        except FileNotFoundError:
            return
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s: cannot be read, begun anew: %s", self._state_file, error)
            return
        if self._state.offer is not None:
            self._data = self._stored_data(self._state.offer)
            if not self._data:
                self._state.offer = None

    def _stored_data(self, offer: Offer) -> bytes:
        try:
            data = self._data_file.read_bytes()
        except OSError as error:
            log.warning("%s: cannot be read: %s", self._data_file, error)
            return b""
        return data if sha256(data) == offer.sha256 else b""

    def _save(self) -> None:
        """Best effort: should it fail, a restart only asks what was answered already."""
        try:
            write_atomically(self._state_file, msgspec.json.encode(self._state))
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._state_file, error)


def _age(came_s: float | None) -> float | None:
    """None where it is not known, or cannot be: the clock was set while there was no process."""
    age_s = -1.0 if came_s is None else round(steady_s() - came_s, 3)
    return age_s if 0.0 <= age_s <= MAX_AGE_S else None


def _key(announced: Round) -> tuple[int, int, int]:
    return announced.generation, announced.round, announced.attempt
