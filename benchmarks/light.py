"""Light nodes: many trainers in one process on one connection, with made updates; for load on manager and broker.

    python -m benchmarks.light URL FIRST COUNT [SEED]

A light node does all a trainer does on the wire: status, offer, chunks as granted, offer again until answered.
"""

import contextlib
import heapq
import queue
import random
import sys
import time

import numpy as np

from dl_mqtt_clients.errors import MessageError
from dl_mqtt_clients.transport.base import Address, Delivery, open_transport
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus, Offer, Reply, Round, decode, encode
from dl_mqtt_clients.wire.topics import Topics
from dl_mqtt_clients.wire.transfer import chunk, chunk_count, sha256
from dl_mqtt_clients.wire.weights import encode as encode_weights
from dl_mqtt_clients.wire.weights import update_positions

BACK_OFF_S = (0.5, 5.0)
ANSWERED = 3


class LightNodes:
    """`count` nodes named light<first> …; each sends the same made update with its own noise in the first value."""

    def __init__(self, url: str, first: int, count: int) -> None:
        self.names = [f"light{n}" for n in range(first, first + count)]
        self._inbox: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._topics = Topics()
        self._round: Round | None = None
        self._manifest: Manifest | None = None
        self._updates: dict[str, tuple[Offer, bytes]] = {}
        self._due: list[tuple[float, int, str]] = []  # (when, attempt, node): offers to repeat
        self._answered: set[str] = set()  # since their last offer
        self._transport = open_transport(Address(url=url), client_id=f"light-{first}")
        self._connected: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run(self) -> None:
        transport, topics = self._transport, self._topics
        transport.subscribe(topics.round)
        transport.subscribe(topics.model("global"))
        for name in self.names:
            transport.subscribe(topics.reply(name))
        transport.start(
            on_message=self._inbox.put,
            on_connected=lambda: self._connected.put(None),
            on_disconnected=lambda reason: print(reason, file=sys.stderr),
        )
        while True:
            self._turn()

    def _turn(self) -> None:
        while not self._connected.empty():
            self._connected.get()
            for name in self.names:
                self._transport.publish(
                    self._topics.status(name, "trainer"), encode(NodeStatus(state="waiting")), retain=True
                )
        wait_s = max(self._due[0][0] - time.monotonic(), 0.0) if self._due else 0.5
        with contextlib.suppress(queue.Empty):
            self._receive(self._inbox.get(timeout=min(wait_s, 0.5)))
        while self._due and self._due[0][0] <= time.monotonic():
            _, attempt, name = heapq.heappop(self._due)
            self._offer(name, attempt)

    def _receive(self, delivery: Delivery) -> None:
        if not delivery.payload:
            return
        try:
            if delivery.topic == self._topics.round:
                self._round = decode(delivery.payload, Round)
                self._begin()
            elif delivery.topic.startswith(self._topics.model("")):
                self._manifest = decode(delivery.payload, Manifest)
                self._begin()
            else:
                self._replied(delivery.topic.split("/")[-3], decode(delivery.payload, Reply))
        except MessageError as error:
            print(error, file=sys.stderr)

    def _begin(self) -> None:
        """A new round whose base is known: every node has its update at once, and offers it within a second."""
        announced, manifest = self._round, self._manifest
        if announced is None or manifest is None or announced.phase != "open" or manifest.version != announced.base:
            return
        if any(o.round == announced.round and o.attempt == announced.attempt for o, _ in self._updates.values()):
            return
        positions = update_positions(manifest.variables)
        rng = np.random.default_rng(announced.round)
        change = [rng.normal(0, 1e-3, manifest.variables[p].shape).astype(np.float32) for p in positions]
        self._updates.clear()
        self._answered.clear()
        self._due.clear()
        for number, name in enumerate(self.names):
            change[0].reshape(-1)[0] = np.float32(number * 1e-6)
            data = encode_weights(change, positions)
            offer = Offer(
                round=announced.round, attempt=announced.attempt, base=announced.base, sha256=sha256(data),
                bytes=len(data), examples=100, metrics={"loss": 1.0},
            )  # fmt: skip
            self._updates[name] = (offer, data)
            heapq.heappush(self._due, (time.monotonic() + random.random(), 0, name))

    def _offer(self, name: str, attempt: int) -> None:
        held = self._updates.get(name)
        if held is None:
            return
        if name in self._answered:  # as a trainer does: who was answered asks again after four seconds only
            self._answered.discard(name)
            heapq.heappush(self._due, (time.monotonic() + 4.0 * random.uniform(0.75, 1.25), ANSWERED, name))
            return
        self._transport.publish(self._topics.offer(name), encode(held[0]))
        pause_s = min(BACK_OFF_S[0] * 2**attempt, BACK_OFF_S[1]) * random.uniform(0.75, 1.25)
        heapq.heappush(self._due, (time.monotonic() + pause_s, attempt + 1, name))

    def _replied(self, name: str, reply: Reply) -> None:
        held, announced = self._updates.get(name), self._round
        if held is None or announced is None or reply.sha256 != held[0].sha256:
            return
        self._answered.add(name)
        if reply.kind == "grant":
            for k in reply.chunks:
                if k < chunk_count(len(held[1]), announced.chunk_bytes):
                    piece = chunk(held[1], k, announced.chunk_bytes)
                    self._transport.publish(self._topics.update(name, reply.sha256, k), piece)
        elif reply.kind in ("receipt", "refusal"):
            self._updates.pop(name)  # answered for good


if __name__ == "__main__":
    LightNodes(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])).run()
