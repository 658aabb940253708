"""One attempt at one round, as the manager sees it: offers and chunks in, stored and summed updates out.

The round engine decides; this class carries its decisions out: replies, files, the running sum.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation import rounds as engine
from dl_mqtt_clients.aggregation.controls import ControlChange, summed
from dl_mqtt_clients.aggregation.mapped import give_back, mappings
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.aggregation.strategies import Aggregator, Checked, Merged, Update
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import RefusedError, StateError, TransferError
from dl_mqtt_clients.services.from_settings import has_controls
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.round_plan import plan_of, rules_of, strategy_of
from dl_mqtt_clients.services.round_report import report_of
from dl_mqtt_clients.services.uploads import Uploads
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.codecs import as_changes, codec
from dl_mqtt_clients.wire.controls import with_controls
from dl_mqtt_clients.wire.messages import Offer, Reply, Round, RoundReport, Training
from dl_mqtt_clients.wire.topics import NodeTopic
from dl_mqtt_clients.wire.weights import update_positions

log = logging.getLogger(__name__)

Send = Callable[[str, Reply], None]

EXHAUSTED_AFTER_S: Final = 2.0  # time for nodes to show up before a small cohort is taken for all there is
TOGETHER: Final = 64  # updates stored with one fsync at most: one costs as much as handling three small ones
TOGETHER_BYTES: Final = 1 << 20
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
        self.is_renewed = False  # the deadline has moved: announce again
        self.accepted = 0  # by this process
        self.refusals: list[str] = []  # reasons since last asked
        self._settings, self._training = settings, training
        self._roster, self._send = roster, send
        self._closed = False
        self._verified: dict[str, tuple[engine.Accepted, Checked]] = {}  # by node: right, and not yet durable
        self._verified_bytes = 0
        self._expected = (-1, 0)  # (changes of the roster, live nodes of the cohort then)
        rules = open_round.rules or rules_of(settings, training)
        self.open_round = msgspec.structs.replace(open_round, rules=rules)
        self._strategy = strategy_of(settings, rules.strategy)
        self._codec = codec(rules.codec)
        if rules.objective is not None:
            self._training = msgspec.structs.replace(training, objective=rules.objective)
        self._has_controls = has_controls(self._training.objective)
        self._variables = with_controls(versions.variables) if self._has_controls else versions.variables
        self._travelling = len(versions.update_positions)  # arrays of an update, before its controls
        self._lineage = versions.current.lineage
        plan = plan_of(
            settings,
            self.open_round,
            versions=versions,
            recent=store.stages.recent,
            max_examples=rules.max_examples,
            least_updates=self._strategy.min_updates,
            update_bytes=self._codec.size_range(as_changes(self._variables), update_positions(self._variables)),
            live=len(roster.live_trainers()),
        )
        self._spool = store.write_open_round(self.open_round)
        store.drop_spools(but=self._spool)
        self._uploads = Uploads(
            self._spool,
            self._variables,
            codec=self._codec,
            chunk_bytes=settings.transfer.chunk_bytes,
            max_delta=rules.max_delta,
        )
        self._opened_at = time.monotonic()
        self._max_delta = rules.max_delta
        self._aggregator = Aggregator(
            self._strategy,
            versions.variables,
            base=versions.weights,
            state=versions.strategy_state(rules.strategy),
            max_delta=rules.max_delta,
            max_examples=rules.max_examples,
            max_updates=rules.max_updates,
        )
        self._add_spooled()
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
        self._settle(node)
        self._carry_out(self._round.offer(node, offer, now=time.monotonic()))
        self._uploads.date(node, offer, now=time.time())

    def chunk(self, topic: NodeTopic, payload: bytes) -> None:
        """It may make an update whole: one that `commit` will count, soon."""
        self._settle(topic.node)
        try:
            new = self._uploads.receive(topic.node, topic.sha256, topic.index, payload)
        except TransferError as error:
            self._carry_out(self._round.rejected(topic.node, str(error)))
            return
        if new:
            self._carry_out(self._round.chunk(topic.node, topic.sha256, topic.index, now=time.monotonic()))

    def tick(self) -> None:
        """Time has passed, or who lives has changed."""
        self.commit()
        now = time.monotonic()
        if self._is_exhausted(now):
            self._round.deadline = now
        self._carry_out(self._round.tick(now=now))

    @property
    def uncommitted(self) -> int:
        """Updates that are right and wait for `commit`."""
        return len(self._verified)

    def commit(self) -> None:
        """Store all right updates with one fsync, count them, and only then let their receipts leave."""
        verified, self._verified, self._verified_bytes = self._verified, {}, 0
        if not verified:
            return
        try:
            self._uploads.accept(*(accepted for accepted, _ in verified.values()))
        except OSError:
            for node in verified:
                self._carry_out(self._round.deferred(node))
            raise  # told in the status
        decisions = self._round.stored(*verified, now=time.monotonic())
        self._carry_out(decisions[: len(verified)])  # the receipts: the nodes need not wait for our arithmetic
        for _, checked in verified.values():
            self._aggregator.add(checked)
        self.accepted += len(verified)
        self._carry_out(decisions[len(verified) :])
        if self.outcome is None:
            self.tick()

    def restart_clock(self) -> None:
        """The whole deadline from now on."""
        self._opened_at = time.monotonic()
        self._round.deadline = self._opened_at + self._settings.rounds.deadline_s

    def close(self) -> None:
        """Release the files and the sum. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._spool.close()
            del self._aggregator  # as large as two models; we are part of a cycle, which lives until it is collected

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
        exhausted = self._opened_at + EXHAUSTED_AFTER_S - now
        return min(self._round.next_tick(now=now), exhausted if exhausted > 0 else float("inf")) + 0.001

    def accepted_updates(self) -> dict[str, str]:
        """Node -> hash of its update."""
        return {a.node: a.sha256 for a in self._round.accepted.values()}

    @property
    def strategy(self) -> str:
        """The text of it."""
        return self.open_round.rules.strategy if self.open_round.rules else ""

    def merged(self) -> Merged:
        """What the strategy makes of all that was accepted, and what came beside it."""
        merged = self._aggregator.result(self._dense_updates() if self._aggregator.needs_updates else ())
        return dataclasses.replace(merged, controls=self._controls())

    def announcement(self, *, generation: int, number: int, phase: str) -> Round:
        """`deadline_s` of it is what is left."""
        plan = self._round.plan
        return Round(
            generation=generation,
            round=plan.round,
            attempt=plan.attempt,
            phase=phase,  # type: ignore[arg-type]
            mode=plan.mode,
            base=plan.base,
            number=number,
            fraction=plan.fraction,
            seed=plan.seed,
            deadline_s=round(max(self._round.deadline - time.monotonic(), 1.0), 3),
            target_updates=self._round.target if plan.target_updates or self._roster.is_settled else 0,
            min_updates=plan.min_updates,
            codec=self._codec.name,
            inline_bytes=plan.inline_bytes,
            chunk_bytes=plan.chunk_bytes,
            require=self._settings.rounds.require,
            training=self._training,
        )

    def report(self) -> RoundReport:
        """Who came, who was refused and why, who was left out."""
        report = report_of(
            self.open_round,
            is_merged=self.outcome is engine.Close,
            seconds=time.monotonic() - self._opened_at,
            accepted=self._round.accepted.values(),
            entries=self._spool.entries,
            drawn=[node for node in self._roster.live_trainers() if self._round.is_drawn(node)],
            refused=self._round.refused,
        )
        return msgspec.structs.replace(
            report,
            base=self._round.plan.base,
            lineage=self._lineage,
            codec=self._codec.name,
            strategy=self.strategy[:2000],
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

    def _is_exhausted(self, now: float) -> bool:
        """Whether the cohort turned out so small that all of it has delivered: nobody else can be waited for."""
        plan, accepted = self._round.plan, self._round.accepted
        if plan.fraction >= 1.0 or plan.mode != "sync":
            return False
        if now < self._opened_at + EXHAUSTED_AFTER_S or not self._roster.is_settled or self._uploads.any_open:
            return False
        live = self._roster.live_trainers()
        return bool(live) and all(node in accepted for node in live if self._round.is_drawn(node))

    def _add_spooled(self) -> None:
        """What was accepted before a crash. StateError when that is no longer what was accepted."""
        try:
            for entry, data in self._spool.updates():
                self._aggregator.add(self._update(entry.accepted(), self._uploads.read(data)))
        except (TransferError, RefusedError) as error:
            hint = "remove this folder to begin the round again"
            raise StateError(f"{self._spool.folder}: an accepted update is damaged: {error} ({hint})") from error

    def _dense_updates(self) -> Iterator[Update]:
        """Every accepted update as arrays; memory-mapped, whatever they travelled as, when all are needed together."""
        for number, (entry, data) in enumerate(self._spool.updates()):
            arrays = self._uploads.read(data)
            if self._codec.scheme is not None and not self._strategy.is_linear:
                arrays = self._spool.on_disk(number, arrays)
            give_back(mappings([data]))  # read once for the check; a reduction reads it again, a block at a time
            yield self._update(entry.accepted(), arrays)

    def _update(self, accepted: engine.Accepted, arrays: Sequence[np.ndarray]) -> Update:
        return Update(
            node=accepted.node,
            arrays=arrays[: self._travelling],
            examples=accepted.examples,
            staleness=accepted.staleness,
            steps=accepted.steps,
        )

    def _controls(self) -> ControlChange | None:
        """Read again, at the end: they need no memory until then."""
        if not self._has_controls:
            return None
        changes = (self._uploads.read(data)[self._travelling :] for _, data in self._spool.updates())
        shapes = [tuple(v.shape) for v in self._variables if v.role == "trainable"]
        total = summed(changes, shapes[: len(shapes) // 2], limit=self._max_delta)
        known = len(self._settings.federation.nodes) or len(self._roster.live_trainers())
        return ControlChange(total, nodes=max(known, len(self._round.accepted)))

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
                case engine.Renew():
                    self.is_renewed = True
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
        """Check an update; a right one is counted with the next `commit`, which is now when enough are together."""
        offer = self._uploads.offer(node)
        accepted = self._round.would_be(node, offer)
        try:
            update = self._update(accepted, self._uploads.check(node))
            checked = self._aggregator.check(update, before=[c for _, c in self._verified.values()])
        except (TransferError, RefusedError) as error:
            self._carry_out(self._round.rejected(node, str(error)))
            return
        self._verified[node] = accepted, checked
        self._verified_bytes += offer.bytes
        is_last = len(self._round.accepted) + len(self._verified) >= self._round.target
        if is_last or len(self._verified) >= TOGETHER or self._verified_bytes >= TOGETHER_BYTES:
            self.commit()

    def _settle(self, node: str) -> None:
        """Before anything else is heard of a node, its update that was right counts."""
        if node in self._verified:
            self.commit()

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
