"""A trainer's side of the upload: offer, again and again until answered, send what is granted, until the receipt."""

import random
from collections.abc import Callable, Sequence
from typing import Final

from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.services.outbox import Outbox
from dl_mqtt_clients.wire.messages import Offer, Reply, Round
from dl_mqtt_clients.wire.topics import Topics

NO_UPDATE: Final = "0" * 64  # in a refusal: of a message that could not be read
MOST_LEAVING: Final = 8  # messages not sent yet: what was granted is still leaving


class Offering:
    """Nobody relies on delivery. `on_offered()`, `on_refused(reply)`, `on_dropped()`: nothing is on offer any more."""

    def __init__(
        self,
        outbox: Outbox,
        *,
        loop: Loop,
        link: Link,
        topics: Topics,
        node_id: str,
        on_refused: Callable[[Reply], None],
        on_dropped: Callable[[], None],
        on_offered: Callable[[], None],
    ) -> None:
        self.accepted = self.refused = 0
        self._outbox, self._loop, self._link, self._topics, self._node = outbox, loop, link, topics, node_id
        self._on_refused, self._on_dropped, self._on_offered = on_refused, on_dropped, on_offered
        self._announced: Round | None = None

    @property
    def is_open(self) -> bool:
        """Whether an update waits for its receipt."""
        return self._outbox.offer is not None

    def connected(self) -> None:
        self._outbox.reconnected()
        if self.is_open:
            self._loop.at("offer", random.uniform(0.0, 0.2), self.offer)

    def heard(self, announced: Round | None) -> None:
        """A round was announced: the update on offer may be of it, of the buffer before it, or of none any more."""
        self._announced = announced
        offer = self._outbox.offer
        if offer is None:
            return
        if self._is_current(offer):
            if announced is not None and announced.mode == "async":
                self._loop.at("offer", random.uniform(0.0, 0.05), self.offer)  # there is room in the new buffer
            elif not self._loop.pending("offer"):
                self._loop.at("offer", 0.0, self.offer)
        elif self._must_ask(offer):
            self._loop.at("offer", 0.0, self.offer)  # its receipt may have been lost
        elif announced is not None and not self._outbox.is_older(announced):
            self._drop()  # an older one a broker brought back: the present one will follow

    def offer(self) -> None:
        """Offer what is stored, and again later."""
        offer, announced = self._outbox.offer, self._announced
        if offer is None or announced is None or not self._link.transport.connected:
            return  # offered again on connect
        if not (self._is_current(offer) or self._must_ask(offer)):
            return  # or on the announcement it belongs to
        self._loop.at("offer", self._outbox.back_off_s(), self.offer)
        if self._link.transport.backlog > MOST_LEAVING:
            return
        inline = offer.bytes <= announced.inline_bytes
        self._link.send(self._topics.offer(self._node), self._outbox.as_sent(offer, inline=inline))
        if inline:
            self._send(range(self._outbox.chunks(announced.chunk_bytes)))
        self._on_offered()

    def replied(self, reply: Reply) -> None:
        offer = self._outbox.offer
        if reply.sha256 == NO_UPDATE and reply.kind == "refusal":
            self._refused(reply)  # of a message that could not be read: who knows whose it was
            return
        if offer is None or reply.sha256 != offer.sha256:
            return
        self._outbox.answered()
        self._loop.at("offer", self._outbox.back_off_s(), self.offer)
        if reply.kind == "grant":
            self._send(reply.chunks)
        elif reply.kind == "receipt":
            self.accepted += 1
            self._outbox.used_up()
            self._drop()
        elif reply.kind == "refusal":
            self._refused(reply)
            self._drop()

    def _send(self, indices: Sequence[int]) -> None:
        offer, announced = self._outbox.offer, self._announced
        if offer is None or announced is None:
            return
        for index in dict.fromkeys(indices):
            payload = self._outbox.chunk(index, announced.chunk_bytes)
            if len(payload):
                self._link.transport.publish(self._topics.update(self._node, offer.sha256, index), payload)

    def _refused(self, reply: Reply) -> None:
        self.refused += 1
        self._on_refused(reply)

    def _drop(self) -> None:
        self._loop.cancel("offer")
        self._outbox.drop()
        self._on_dropped()

    def _must_ask(self, offer: Offer) -> bool:
        """Whether the update's round is over and we must know whether it counted: the manager says so still."""
        now = self._announced
        is_past = now is not None and now.generation == self._outbox.generation and now.round > offer.round
        return is_past and self._outbox.must_know

    def _is_current(self, offer: Offer) -> bool:
        now = self._announced
        if now is None:
            return False
        if now.mode == "async":
            return now.generation == self._outbox.generation and now.round >= offer.round
        return (now.round, now.attempt, now.base) == (offer.round, offer.attempt, offer.base)
