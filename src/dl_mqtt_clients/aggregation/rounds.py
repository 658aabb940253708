"""The round engine: a state machine without input, output or clock of its own.

    offer ─► refuse | receipt (again) | wait | grant ─► chunks … ─► verify ─► stored ─► receipt ─► close
                                                              (deadline: close with a quorum, else abandon)

The manager turns messages into calls, and the returned decisions into messages and files. An update counts once it is
*stored*: the engine says Verify, the manager checks, writes and fsyncs, then says `stored`; only then a Receipt leaves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dl_mqtt_clients.aggregation.cohort import is_drawn
from dl_mqtt_clients.wire.messages import Offer
from dl_mqtt_clients.wire.transfer import chunk_count

MAX_REFUSED: Final = 1000  # nodes whose refusal is remembered for the report: a name costs a stranger nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundPlan:
    """What is fixed when a round is announced."""

    round: int
    attempt: int
    base: str  # version the updates are built on
    seed: str
    fraction: float = 1.0
    target_updates: int  # close at once when so many are stored
    min_updates: int  # quorum at the deadline
    max_examples: int  # cap of an update's weight: `examples` is the node's own word
    update_bytes: tuple[int, int]  # smallest and largest size of a right update
    chunk_bytes: int
    inline_bytes: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """One counted update."""

    node: str
    sha256: str
    examples: int  # n_k, capped
    loss: float | None


@dataclass(frozen=True, slots=True)
class Grant:
    node: str
    sha256: str
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    node: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    node: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Refuse:
    node: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class Expect:
    """Make room for an update of this offer; its chunks will come."""

    node: str
    offer: Offer


@dataclass(frozen=True, slots=True)
class Verify:
    """All chunks are here: check, store, then call `stored` or `rejected`."""

    node: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Give up what was received of this node's update so far."""

    node: str


@dataclass(frozen=True, slots=True)
class Close:
    """Merge what was accepted."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """Too few came: announce again."""


Decision = Grant | Wait | Receipt | Refuse | Expect | Verify | Forget | Close | Abandon


@dataclass(slots=True)
class _Upload:
    offer: Offer
    missing: dict[int, None]
    granted: dict[int, None] = field(default_factory=dict)
    since: float = 0.0  # when something last came


class Round:
    """One attempt at one round. `now` is any monotonic clock in seconds."""

    def __init__(
        self,
        plan: RoundPlan,
        *,
        deadline: float,
        chunks_in_flight: int = 64,
        stall_s: float = 5.0,
        is_known: Callable[[str], bool] = lambda _node: True,
        expected_nodes: Callable[[], int] = lambda: 0,
        accepted: Iterable[Accepted] = (),
    ) -> None:
        self.plan = plan
        self.deadline = deadline
        self.accepted: dict[str, Accepted] = {a.node: a for a in accepted}
        self.refused: dict[str, str] = {}
        self.closed = False
        self._uploads: dict[str, _Upload] = {}
        self._waiting: dict[str, None] = {}
        self._now = float("-inf")  # when the last event came
        self._limit = chunks_in_flight
        self._stall_s = stall_s
        self._is_known = is_known
        self._expected_nodes = expected_nodes

    # ---- events ----

    def offer(self, node: str, offer: Offer, *, now: float) -> list[Decision]:
        """A node offers, perhaps for the tenth time."""
        self._now = now
        held = self.accepted.get(node)
        if held is not None and held.sha256 == offer.sha256:
            return [Receipt(node, offer.sha256)]
        reason = self._reason_against(node, offer)
        if reason:
            return self._refuse(node, offer.sha256, reason)
        upload = self._uploads.get(node)
        decisions: list[Decision] = []
        if upload is None or upload.offer.sha256 != offer.sha256:
            decisions += [Forget(node)] if upload else []
            chunks = range(chunk_count(offer.bytes, self.plan.chunk_bytes))
            upload = self._uploads[node] = _Upload(offer, dict.fromkeys(chunks))
            decisions.append(Expect(node, offer))
            if offer.inline and offer.bytes <= self.plan.inline_bytes:
                upload.since = now
                upload.granted = dict(upload.missing)  # they are on their way
                self._waiting.pop(node, None)
                return decisions
        upload.granted.clear()  # an offer repeated: what was granted may be lost
        return decisions + self._grant_or_wait(node, upload)

    def chunk(self, node: str, sha256: str, index: int, *, now: float) -> list[Decision]:
        """Chunk `index` of a node's update was received and written."""
        self._now = now
        upload = self._uploads.get(node)
        if upload is None or upload.offer.sha256 != sha256 or index not in upload.missing:
            return []
        del upload.missing[index]
        upload.granted.pop(index, None)
        upload.since = now
        if not upload.missing:
            return [*self._serve_waiting(), Verify(node)]  # last: it may end the round
        if len(upload.granted) <= self._share() // 2:  # grant in runs, not one reply a chunk
            granted = self._grant(node, upload)
            if not upload.granted:
                self._waiting[node] = None  # no room just now: it need not ask again
            return [*granted, *self._serve_waiting()]
        return []

    def stored(self, node: str, *, now: float) -> list[Decision]:
        """The update is verified and durable: now it counts."""
        upload = self._uploads.pop(node, None)
        if upload is None:
            return []
        self._waiting.pop(node, None)
        offer = upload.offer
        self.accepted[node] = Accepted(node, offer.sha256, self.weight(offer), offer.metrics.get("loss"))
        self.refused.pop(node, None)
        return [Receipt(node, offer.sha256), *self.tick(now=now)]

    def rejected(self, node: str, reason: str) -> list[Decision]:
        """The update was complete, but wrong."""
        upload = self._uploads.pop(node, None)
        if upload is None:
            return []
        self._waiting.pop(node, None)
        return [Forget(node), *self._refuse(node, upload.offer.sha256, reason), *self._serve_waiting()]

    def tick(self, *, now: float) -> list[Decision]:
        """Time has passed, or somebody came or went."""
        self._now = now
        if self.closed:
            return []
        if len(self.accepted) >= self.target:
            return self._end(Close())
        if now >= self.deadline:
            return self._end(Close() if len(self.accepted) >= max(self.plan.min_updates, 1) else Abandon())
        decisions: list[Decision] = []
        for upload in self._uploads.values():
            if upload.granted and now >= upload.since + self._stall_s:
                upload.granted.clear()  # its sender may be dead; what came is kept for when it offers again
        decisions += self._serve_waiting()
        return decisions

    # ---- questions ----

    @property
    def target(self) -> int:
        """Updates that close the round at once: the plan's, or all nodes that live now."""
        wanted = self.plan.target_updates or self._expected_nodes()
        return max(wanted, self.plan.min_updates, 1)

    @property
    def in_flight(self) -> int:
        """Chunks granted and not yet received, over all nodes."""
        return sum(len(u.granted) for u in self._uploads.values())

    def next_tick(self, *, now: float) -> float:
        """Seconds until `tick` has something to do."""
        stalls = [u.since + self._stall_s for u in self._uploads.values() if u.granted]
        return max(min([self.deadline, *stalls]) - now, 0.0)

    def weight(self, offer: Offer) -> int:
        """n_k of an offer: what the node says, at most the cap."""
        return min(offer.examples, self.plan.max_examples)

    def is_drawn(self, node: str) -> bool:
        plan = self.plan
        return is_drawn(plan.seed, round_number=plan.round, attempt=plan.attempt, node=node, fraction=plan.fraction)

    # ---- inside ----

    def _reason_against(self, node: str, offer: Offer) -> str:
        plan = self.plan
        smallest, largest = plan.update_bytes
        here, there = (plan.round, plan.attempt), (offer.round, offer.attempt)
        checks = (
            (not self._is_known(node), "unknown node"),
            (there != here, f"another round: expected {here[0]}.{here[1]}, received {there[0]}.{there[1]}"),
            (self.closed, "the round is closed"),
            (offer.base != plan.base, "built on another version than the announced one"),
            (not self.is_drawn(node), "not in this round's cohort"),
            (node in self.accepted, "another update of this node was accepted in this round"),
            (
                not smallest <= offer.bytes <= largest,
                f"wrong size: expected {smallest} to {largest} bytes, received {offer.bytes}",
            ),
        )
        return next((reason for wrong, reason in checks if wrong), "")

    def _refuse(self, node: str, sha256: str, reason: str) -> list[Decision]:
        if node not in self.accepted and (node in self.refused or len(self.refused) < MAX_REFUSED):
            self.refused[node] = reason
        return [Refuse(node, sha256, reason)]

    def _share(self) -> int:
        """Chunks one node may have in flight: all of the limit when alone, a fair part of it among many."""
        return max(self._limit // max(len(self._uploads), 1), min(4, self._limit))

    def _grant(self, node: str, upload: _Upload) -> list[Decision]:
        room = min(self._limit - self.in_flight, self._share() - len(upload.granted))
        chunks = tuple(k for k in upload.missing if k not in upload.granted)[: max(room, 0)]
        if not chunks:
            return []
        upload.granted.update(dict.fromkeys(chunks))
        self._waiting.pop(node, None)
        upload.since = self._now  # its time to send begins now, however long it waited
        return [Grant(node, upload.offer.sha256, chunks)]

    def _grant_or_wait(self, node: str, upload: _Upload) -> list[Decision]:
        granted = self._grant(node, upload)
        if granted:
            return granted
        self._waiting[node] = None
        return [Wait(node, upload.offer.sha256)]

    def _serve_waiting(self) -> list[Decision]:
        decisions: list[Decision] = []
        for node in list(self._waiting):
            if self.in_flight >= self._limit:
                break
            decisions += self._grant(node, self._uploads[node])
        return decisions

    def _end(self, how: Close | Abandon) -> list[Decision]:
        self.closed = True
        late = [Refuse(n, u.offer.sha256, "the round is closed") for n, u in self._uploads.items()]
        forget = [Forget(n) for n in self._uploads]
        self._uploads.clear()
        self._waiting.clear()
        return [*late, *forget, how]
