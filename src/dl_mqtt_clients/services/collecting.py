"""One attempt at one round, as the manager sees it: offers and chunks in, stored and summed updates out.

The round engine decides; this class carries its decisions out: replies, files, the running sum.
"""

import logging
import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation import rounds as engine
from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import RefusedError, TransferError
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.uploads import Uploads
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Metrics, Offer, Participant, Reply, Round, RoundReport, Training
from dl_mqtt_clients.wire.topics import NodeTopic
from dl_mqtt_clients.wire.weights import header_limit, nbytes, update_positions

log = logging.getLogger(__name__)

Send = Callable[[str, Reply], None]


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
        self.open_round = open_round
        self.outcome: type[engine.Close | engine.Abandon] | None = None
        self.accepted = 0  # by this process
        self.refusals: list[str] = []  # reasons since last asked
        self._settings, self._training = settings, training
        self._roster, self._send = roster, send
        self._spool = store.write_open_round(open_round)
        store.drop_spools(but=self._spool)
        self._uploads = Uploads(
            self._spool,
            versions.variables,
            chunk_bytes=settings.transfer.chunk_bytes,
            max_delta=settings.rounds.max_delta,
        )
        self._opened_at = time.monotonic()
        plan = self._plan(versions)
        self._sum = self._rebuilt_sum(versions.update_shapes, plan)
        self._round = engine.Round(
            plan,
            deadline=self._opened_at + settings.rounds.deadline_s,
            chunks_in_flight=settings.transfer.chunks_in_flight,
            is_known=roster.is_known,
            expected_nodes=lambda: len(roster.live_trainers()),
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
        self._carry_out(self._round.tick(now=time.monotonic()))

    def restart_clock(self) -> None:
        """The whole deadline from now on."""
        self._opened_at = time.monotonic()
        self._round.deadline = self._opened_at + self._settings.rounds.deadline_s

    def close(self) -> None:
        self._spool.close()

    # ---- what there is to know ----

    @property
    def is_empty(self) -> bool:
        return not self._round.accepted

    @property
    def has_begun(self) -> bool:
        """Whether an update is here or on its way."""
        return bool(self._round.accepted) or self._uploads.any_open

    def next_tick_s(self) -> float:
        return self._round.next_tick(now=time.monotonic()) + 0.001

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
            target_updates=self._round.target,
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

    def _plan(self, versions: Versions) -> engine.RoundPlan:
        rounds, transfer = self._settings.rounds, self._settings.transfer
        travelling = [versions.variables[p] for p in update_positions(versions.variables)]
        size = nbytes([msgspec.structs.replace(v, dtype="float32") for v in travelling])
        largest = size + 8 + header_limit(len(travelling))
        cohort = max(len(self._roster.live_trainers()), rounds.target_updates, rounds.min_updates)
        return engine.RoundPlan(
            round=self.open_round.round,
            attempt=self.open_round.attempt,
            base=versions.current.version,
            seed=self._settings.federation.seed,
            fraction=self.open_round.fraction,
            target_updates=rounds.target_updates,
            min_updates=rounds.min_updates,
            max_examples=rounds.max_examples or self._training.window * self._training.epochs,
            update_bytes=(size + 8, min(largest, transfer.max_update_bytes)),
            chunk_bytes=transfer.chunk_bytes,
            inline_bytes=largest if largest * cohort * self.open_round.fraction <= transfer.inline_bytes else 0,
        )

    def _rebuilt_sum(self, shapes: Sequence[tuple[int, ...]], plan: engine.RoundPlan) -> RunningSum:
        nodes = max(plan.target_updates, 1000)
        bits = scale_bits(max_abs=self._settings.rounds.max_delta, max_weight=float(plan.max_examples) * nodes)
        total = RunningSum(shapes, bits=bits)
        for entry, data in self._spool.updates():
            total.add(self._uploads.read(data), weight=entry.examples)
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
        self._uploads.accept(node, examples=examples)
        decisions = self._round.stored(node, now=time.monotonic())
        self._carry_out(decisions[:1])  # the receipt: the node need not wait for our arithmetic
        self._sum.add(update, weight=examples)
        self.accepted += 1
        self._carry_out(decisions[1:])

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
