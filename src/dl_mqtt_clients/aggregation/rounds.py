"""The round engine: a state machine without input, output or clock of its own.

    offer ─► refuse | receipt (again) | wait | grant ─► chunks … ─► verify ─► stored ─► receipt ─► close
                                                              (deadline: close with a quorum, else abandon)

The manager turns messages into calls, and the returned decisions into messages and files. An update counts once it is
*stored*: the engine says Verify, the manager checks, writes and fsyncs, then says `stored`; only then a Receipt leaves.

`sync` counts updates of this round attempt, built on its base. `async` (FedBuff: Nguyen et al., AISTATS 2022, Algorithm
1) counts updates of this and of earlier rounds, while their base is one of `plan.bases`; a round is one filled buffer.
Departure from FedBuff: a node counts once a buffer, so that no fast node fills it alone; its next update waits.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal

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
    mode: Literal["sync", "async"] = "sync"
    stale: Mapping[str, int] = field(default_factory=dict)  # async: earlier bases that count -> versions back, ≥ 1
    recent: Mapping[str, str] = field(default_factory=dict)  # node -> hash of its last update in a merged round
    fraction: float = 1.0
    target_updates: int  # close at once when so many are stored
    min_updates: int  # quorum at the deadline
    renew_s: float = 60.0  # async: a buffer with too few at its deadline stays open so much longer
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
    staleness: int = 0  # versions between its base and this round's
    steps: int = 1  # local steps behind it


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


@dataclass(frozen=True, slots=True)
class Renew:
    """Too few came, and they are kept: the same round goes on, with a new deadline."""


Decision = Grant | Wait | Receipt | Refuse | Expect | Verify | Forget | Close | Abandon | Renew


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
        self._waiting: dict[str, None] = {}  # those that lack chunks and have none granted, longest first
        self._granted: dict[str, None] = {}  # those with chunks granted: no more of them than chunks in flight
        self._in_flight = 0
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
        if offer.sha256 == (held and held.sha256) or self._was_merged(node, offer):
            return [Receipt(node, offer.sha256)]
        if held is not None and self.plan.mode == "async" and not self._reason_against(node, offer):
            return [Wait(node, offer.sha256)]  # its turn comes with the next buffer
        reason = self._reason_against(node, offer)
        if reason:
            return self._refuse(node, offer.sha256, reason)
        upload = self._uploads.get(node)
        decisions: list[Decision] = []
        if upload is None or upload.offer.sha256 != offer.sha256:
            if upload is not None:
                self._revoke(node, upload)
                decisions.append(Forget(node))
            chunks = range(chunk_count(offer.bytes, self.plan.chunk_bytes))
            upload = self._uploads[node] = _Upload(offer, dict.fromkeys(chunks))
            decisions.append(Expect(node, offer))
            if offer.inline and offer.bytes <= self.plan.inline_bytes:
                self._give(node, upload, tuple(upload.missing))  # they are on their way
                return decisions
        self._revoke(node, upload)  # an offer repeated: what was granted may be lost
        return decisions + self._grant_or_wait(node, upload)

    def chunk(self, node: str, sha256: str, index: int, *, now: float) -> list[Decision]:
        """Chunk `index` of a node's update was received and written."""
        self._now = now
        upload = self._uploads.get(node)
        if upload is None or upload.offer.sha256 != sha256 or index not in upload.missing:
            return []
        del upload.missing[index]
        self._take(node, upload, index)
        upload.since = now
        if not upload.missing:
            self._waiting.pop(node, None)
            return [*self._serve_waiting(), Verify(node)]  # last: it may end the round
        if len(upload.granted) <= self._share() // 2:  # grant in runs, not one reply a chunk
            granted = self._grant(node, upload)
            if not upload.granted:
                self._waiting[node] = None  # no room just now: it need not ask again
            return [*granted, *self._serve_waiting()]
        return []

    def stored(self, *nodes: str, now: float) -> list[Decision]:
        """These updates are verified and durable: now they count, all of them before the round may end."""
        receipts: list[Decision] = []
        for node in nodes:
            upload = self._drop(node)
            if upload is not None:
                self.accepted[node] = self.would_be(node, upload.offer)
                self.refused.pop(node, None)
                receipts.append(Receipt(node, upload.offer.sha256))
        return [*receipts, *self.tick(now=now)] if receipts else []

    def rejected(self, node: str, reason: str) -> list[Decision]:
        """The update was complete, but wrong."""
        upload = self._drop(node)
        if upload is None:
            return []
        return [Forget(node), *self._refuse(node, upload.offer.sha256, reason), *self._serve_waiting()]

    def deferred(self, node: str) -> list[Decision]:
        """The update is right, but could not be stored (a full disk): its node offers it again later."""
        upload = self._drop(node)
        if upload is None:
            return []
        return [Forget(node), Wait(node, upload.offer.sha256), *self._serve_waiting()]

    def tick(self, *, now: float) -> list[Decision]:
        """Time has passed, or somebody came or went."""
        self._now = now
        if self.closed:
            return []
        if len(self.accepted) >= self.target:
            return self._end(Close())
        if now >= self.deadline:
            if len(self.accepted) >= max(self.plan.min_updates, 1):
                return self._end(Close())
            if self.plan.mode == "sync":
                return self._end(Abandon())
            self.deadline = now + self.plan.renew_s
            return [Renew()]
        for node in [n for n in self._granted if now >= self._uploads[n].since + self._stall_s]:
            self._revoke(node, self._uploads[node])  # it may be dead; what came is kept for when it offers again
        return self._serve_waiting()

    # ---- questions ----

    @property
    def target(self) -> int:
        """Updates that close the round at once: the plan's, or all nodes that live now."""
        wanted = self.plan.target_updates or self._expected_nodes()
        return max(wanted, self.plan.min_updates, 1)

    @property
    def in_flight(self) -> int:
        """Chunks granted and not yet received, over all nodes."""
        return self._in_flight

    def next_tick(self, *, now: float) -> float:
        """Seconds until `tick` has something to do."""
        stalls = [self._uploads[node].since + self._stall_s for node in self._granted]
        return max(min([self.deadline, *stalls]) - now, 0.0)

    def would_be(self, node: str, offer: Offer) -> Accepted:
        """What the offer counts for: n_k is the node's own word, at most the cap."""
        examples = min(offer.examples, self.plan.max_examples)
        staleness = self.plan.stale.get(offer.base, 0)
        return Accepted(node, offer.sha256, examples, offer.metrics.get("loss"), staleness, offer.steps)

    def is_drawn(self, node: str, offer: Offer | None = None) -> bool:
        """Whether the node belongs to this round's cohort; with an offer, to that of the round it was made for."""
        plan = self.plan
        round_number, attempt = (offer.round, offer.attempt) if offer else (plan.round, plan.attempt)
        return is_drawn(plan.seed, round_number=round_number, attempt=attempt, node=node, fraction=plan.fraction)

    # ---- inside ----

    def _was_merged(self, node: str, offer: Offer) -> bool:
        """Whether the offer is of an earlier round that counted it; an equal update of this round is another one."""
        return offer.round < self.plan.round and self.plan.recent.get(node) == offer.sha256

    def _reason_against(self, node: str, offer: Offer) -> str:
        plan, is_sync = self.plan, self.plan.mode == "sync"
        smallest, largest = plan.update_bytes
        here, there = (plan.round, plan.attempt), (offer.round, offer.attempt)
        checks = (
            (not self._is_known(node), "unknown node"),
            (
                there != here if is_sync else offer.round > plan.round,
                f"another round: expected {here[0]}.{here[1]}, received {there[0]}.{there[1]}",
            ),
            (self.closed, "the round is closed"),
            (
                offer.base != plan.base and (is_sync or offer.base not in plan.stale),
                "built on another version than the announced one" if is_sync else "built on a version too old to count",
            ),
            (not self.is_drawn(node, offer), "not in this round's cohort"),
            (is_sync and node in self.accepted, "another update of this node was accepted in this round"),
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
        room = min(self._limit - self._in_flight, self._share() - len(upload.granted))
        chunks = tuple(islice((k for k in upload.missing if k not in upload.granted), max(room, 0)))
        if not chunks:
            return []
        self._give(node, upload, chunks)
        return [Grant(node, upload.offer.sha256, chunks)]

    def _grant_or_wait(self, node: str, upload: _Upload) -> list[Decision]:
        granted = self._grant(node, upload)
        if granted:
            return granted
        self._waiting[node] = None
        return [Wait(node, upload.offer.sha256)]

    def _serve_waiting(self) -> list[Decision]:
        decisions: list[Decision] = []
        while self._waiting and self._in_flight < self._limit:
            node = next(iter(self._waiting))
            decisions += self._grant(node, self._uploads[node])
            self._waiting.pop(node, None)
        return decisions

    def _give(self, node: str, upload: _Upload, chunks: tuple[int, ...]) -> None:
        """Chunks are granted; the time to send them begins now, however long the node waited."""
        self._in_flight += len(chunks)
        upload.granted.update(dict.fromkeys(chunks))
        self._granted[node] = None
        self._waiting.pop(node, None)
        upload.since = self._now

    def _take(self, node: str, upload: _Upload, chunk: int) -> None:
        """A chunk came, granted or not."""
        if chunk in upload.granted:
            self._in_flight -= 1
            del upload.granted[chunk]
            if not upload.granted:
                self._granted.pop(node, None)

    def _revoke(self, node: str, upload: _Upload) -> None:
        """What was granted and has not come is granted no more."""
        self._in_flight -= len(upload.granted)
        upload.granted.clear()
        self._granted.pop(node, None)

    def _drop(self, node: str) -> _Upload | None:
        """The upload has ended, whatever became of it."""
        upload = self._uploads.pop(node, None)
        if upload is not None:
            self._revoke(node, upload)
            self._waiting.pop(node, None)
        return upload

    def _end(self, how: Close | Abandon) -> list[Decision]:
        self.closed = True
        late = [Refuse(n, u.offer.sha256, "the round is closed") for n, u in self._uploads.items()]
        forget = [Forget(n) for n in self._uploads]
        self._uploads.clear()
        self._waiting.clear()
        self._granted.clear()
        self._in_flight = 0
        return [*late, *forget, how]
