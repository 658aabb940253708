"""One attempt at one round, as the manager sees it: offers and chunks in, stored and summed updates out.

The round engine decides; this class carries its decisions out: replies, files, the running sum.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation import rounds as engine
from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import RefusedError, StateError, TransferError
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.uploads import Uploads
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Metrics, Offer, Participant, Reply, Round, RoundReport, Training
from dl_mqtt_clients.wire.topics import NodeTopic
from dl_mqtt_clients.wire.weights import header_limit, nbytes, update_positions

log = logging.getLogger(__name__)

Send = Callable[[str, Reply], None]

HOPELESS_AFTER_S: Final = 2.0  # time for nodes to show up before a cohort that is too small is given up
UNKNOWN: Final = 2**31  # nodes to expect while nobody knows who is there: only the deadline closes


class Collector:
    """Begins with whatever was accepted before a crash. `outcome` is set when the attempt is over."""

    def __init__(
        self,
        open_round: OpenRound,
        *,
        store: Store,
        versions: Versions,
        settings: Settings,
        training: Training,
        roster: Roster,
        send: Send,
    ) -> None:
        self.outcome: type[engine.Close | engine.Abandon] | None = None
        self.accepted = 0  # by this process
        self.refusals: list[str] = []  # reasons since last asked
        self._settings, self._training = settings, training
        self._roster, self._send = roster, send
        self._closed = False
        self._expected = (-1, 0)  # (changes of the roster, live nodes of the cohort then)
        limit = open_round.max_delta or settings.rounds.max_delta
        plan = self._plan(open_round, versions, store.stages.recent)
        bits = open_round.bits or _bits(plan, limit)
        self.open_round = msgspec.structs.replace(open_round, bits=bits, max_delta=limit)
        self._spool = store.write_open_round(self.open_round)
        store.drop_spools(but=self._spool)
        self._uploads = Uploads(
            self._spool, versions.variables, chunk_bytes=settings.transfer.chunk_bytes, max_delta=limit
        )
        self._opened_at = time.monotonic()
        self._sum = self._rebuilt_sum(versions.update_shapes, bits)
        self._round = engine.Round(
            plan,
            deadline=self._opened_at + settings.rounds.deadline_s,
            chunks_in_flight=settings.transfer.chunks_in_flight,
            is_known=roster.is_known,
            expected_nodes=self._expected_nodes,
            accepted=[entry.accepted() for entry in self._spool.entries],
        )

    # ---- events ----

    def offer(self, node: str, offer: Offer) -> None:
        self._carry_out(self._round.offer(node, offer, now=time.monotonic()))

    def chunk(self, topic: NodeTopic, payload: bytes) -> None:
        try:
            new = self._uploads.receive(topic.node, topic.sha256, topic.index, payload)
        except TransferError as error:
            self._carry_out(self._round.rejected(topic.node, str(error)))
            return
        if new:
            self._carry_out(self._round.chunk(topic.node, topic.sha256, topic.index, now=time.monotonic()))

    def tick(self) -> None:
        """Time has passed, or who lives has changed."""
        now = time.monotonic()
        if self._is_hopeless(now):
            self._round.deadline = now
        self._carry_out(self._round.tick(now=now))

    def restart_clock(self) -> None:
        """The whole deadline from now on."""
        self._opened_at = time.monotonic()
        self._round.deadline = self._opened_at + self._settings.rounds.deadline_s

    def close(self) -> None:
        """Release the files. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._spool.close()

    # ---- what there is to know ----

    @property
    def is_empty(self) -> bool:
        return not self._round.accepted

    @property
    def has_begun(self) -> bool:
        """Whether an update is here or on its way."""
        return bool(self._round.accepted) or self._uploads.any_open

    def holds(self, node: str, sha256: str) -> bool:
        """Whether this update is accepted, or on its way and has its room."""
        held = self._round.accepted.get(node)
        return bool(held and held.sha256 == sha256) or self._uploads.expects(node, sha256)

    def next_tick_s(self) -> float:
        now = time.monotonic()
        hopeless = self._opened_at + HOPELESS_AFTER_S - now
        return min(self._round.next_tick(now=now), hopeless if hopeless > 0 else float("inf")) + 0.001

    def accepted_updates(self) -> dict[str, str]:
        """Node -> hash of its update."""
        return {a.node: a.sha256 for a in self._round.accepted.values()}

    def mean(self) -> list[np.ndarray]:
        """The weighted mean of what was accepted, one array a position that travels."""
        return self._sum.mean()

    def announcement(self, *, generation: int, number: int, phase: str) -> Round:
        """`deadline_s` of it is what is left."""
        plan = self._round.plan
        return Round(
            generation=generation,
            round=plan.round,
            attempt=plan.attempt,
            phase=phase,  # type: ignore[arg-type]
            base=plan.base,
            number=number,
            fraction=plan.fraction,
            seed=plan.seed,
            deadline_s=round(max(self._round.deadline - time.monotonic(), 1.0), 3),
            target_updates=self._round.target if plan.target_updates or self._roster.is_settled else 0,
            min_updates=plan.min_updates,
            inline_bytes=plan.inline_bytes,
            chunk_bytes=plan.chunk_bytes,
            training=self._training,
        )

    def report(self) -> RoundReport:
        """Who came, who was refused and why, who was left out."""
        accepted = sorted(self._round.accepted.values(), key=lambda a: a.node)
        examples = sum(a.examples for a in accepted)
        losses = [(a.loss, a.examples) for a in accepted if a.loss is not None]
        loss = sum(value * n for value, n in losses) / sum(n for _, n in losses) if losses else None
        missing = self._roster.live_trainers() - set(self._round.accepted)
        return RoundReport(
            round=self.open_round.round,
            attempt=self.open_round.attempt,
            outcome="merged" if self.outcome is engine.Close else "abandoned",
            seconds=round(time.monotonic() - self._opened_at, 4),
            participants=tuple(
                Participant(node=a.node, examples=a.examples, weight=a.examples / examples, loss=a.loss)
                for a in accepted
            ),
            refused=dict(self._round.refused),
            left_out=tuple(sorted(node for node in missing if self._round.is_drawn(node))),
            metrics=Metrics(loss=loss, examples=examples, nodes=len(accepted)),
        )

    # ---- inside ----

    def _expected_nodes(self) -> int:
        """Live nodes of the cohort: when all have delivered, nobody else can be waited for."""
        if not self._roster.is_settled:
            return UNKNOWN
        if self._expected[0] != self._roster.changes:
            drawn = sum(self._round.is_drawn(node) for node in self._roster.live_trainers())
            self._expected = (self._roster.changes, drawn)
        return self._expected[1]

    def _is_hopeless(self, now: float) -> bool:
        """Whether the cohort turned out so small that the quorum cannot be reached: the next attempt asks more."""
        plan, accepted = self._round.plan, self._round.accepted
        if plan.fraction >= 1.0 or plan.mode != "sync" or len(accepted) >= plan.min_updates:
            return False
        if now < self._opened_at + HOPELESS_AFTER_S or not self._roster.is_settled or self._uploads.any_open:
            return False
        live = self._roster.live_trainers()
        return bool(live) and all(node in accepted for node in live if self._round.is_drawn(node))

    def _plan(self, open_round: OpenRound, versions: Versions, recent: dict[str, str]) -> engine.RoundPlan:
        rounds, transfer = self._settings.rounds, self._settings.transfer
        travelling = [versions.variables[p] for p in update_positions(versions.variables)]
        size = nbytes([msgspec.structs.replace(v, dtype="float32") for v in travelling])
        largest = size + 8 + header_limit(len(travelling))
        return engine.RoundPlan(
            round=open_round.round,
            attempt=open_round.attempt,
            base=versions.current.version,
            seed=self._settings.federation.seed,
            recent=recent,
            fraction=open_round.fraction,
            target_updates=rounds.target_updates,
            min_updates=rounds.min_updates,
            max_examples=rounds.max_examples or self._training.window * self._training.epochs,
            update_bytes=(size + 8, min(largest, transfer.max_update_bytes)),
            chunk_bytes=transfer.chunk_bytes,
            inline_bytes=largest if largest * self._cohort(open_round) <= transfer.inline_bytes else 0,
        )

    def _cohort(self, open_round: OpenRound) -> float:
        """How many may send their updates unasked; before anybody was heard, any number."""
        rounds = self._settings.rounds
        live = len(self._roster.live_trainers()) or rounds.target_updates or float("inf")
        return max(live, rounds.target_updates, rounds.min_updates) * open_round.fraction

    def _rebuilt_sum(self, shapes: Sequence[tuple[int, ...]], bits: int) -> RunningSum:
        """Of what was accepted before a crash. StateError when that is no longer what was accepted."""
        total = RunningSum(shapes, bits=bits)
        try:
            for entry, data in self._spool.updates():
                total.add(self._uploads.read(data), weight=entry.examples)
        except (TransferError, RefusedError) as error:
            hint = "remove this folder to begin the round again"
            raise StateError(f"{self._spool.folder}: an accepted update is damaged: {error} ({hint})") from error
        return total

    def _carry_out(self, decisions: Sequence[engine.Decision]) -> None:
        for decision in decisions:
            match decision:
                case engine.Grant(node, sha256, chunks):
                    self._reply(node, "grant", sha256, chunks=chunks)
                case engine.Wait(node, sha256):
                    self._reply(node, "wait", sha256)
                case engine.Receipt(node, sha256):
                    self._reply(node, "receipt", sha256)
                case engine.Refuse(node, sha256, reason):
                    self.refusals.append(reason)
                    self._reply(node, "refusal", sha256, reason=reason)
                case engine.Close() | engine.Abandon():
                    self.outcome = type(decision)
                case _:
                    self._carry_out_upload(decision)

    def _carry_out_upload(self, decision: engine.Decision) -> None:
        match decision:
            case engine.Expect(node, offer):
                self._uploads.expect(node, offer)
            case engine.Forget(node):
                self._uploads.forget(node)
            case engine.Verify(node):
                self._verify(node)

    def _verify(self, node: str) -> None:
        """Check an update; when it is right, store it, count it, and only then let the receipt leave."""
        try:
            update = self._uploads.check(node)
            examples = self._round.would_be(node, self._uploads.offer(node)).examples
            self._sum.check(update, examples)
        except (TransferError, RefusedError) as error:
            self._carry_out(self._round.rejected(node, str(error)))
            return
        try:
            self._uploads.accept(node, examples=examples)
        except OSError:
            self._carry_out(self._round.deferred(node))
            raise  # told in the status
        decisions = self._round.stored(node, now=time.monotonic())
        self._carry_out(decisions[:1])  # the receipt: the node need not wait for our arithmetic
        self._sum.add(update, weight=examples)
        self.accepted += 1
        self._carry_out(decisions[1:])
        if self.outcome is None:
            self.tick()

    def _reply(self, node: str, kind: str, sha256: str, *, chunks: tuple[int, ...] = (), reason: str = "") -> None:
        reply = Reply(
            kind=kind,  # type: ignore[arg-type]
            round=self.open_round.round,
            attempt=self.open_round.attempt,
            sha256=sha256,
            chunks=chunks,
            reason=reason[:2000],
        )
        self._send(node, reply)


def _bits(plan: engine.RoundPlan, max_delta: float) -> int:
    nodes = max(plan.target_updates, 1000)
    return scale_bits(max_abs=max_delta, max_weight=float(plan.max_examples) * nodes)
