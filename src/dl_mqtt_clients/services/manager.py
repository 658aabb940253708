"""The manager: announces rounds, merges updates, keeps versions, promotes a model to production.

The decisions are the round engine's (`aggregation.rounds`), the truth is on disk (`aggregation.store`); this service turns
messages into events, and decisions into files and messages. What is published is published again on every connect.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from dl_mqtt_clients.aggregation import rounds as engine
from dl_mqtt_clients.aggregation.evaluation import Evaluation
from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.aggregation.fixed_point import RunningSum, scale_bits
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError, RefusedError, TransferError
from dl_mqtt_clients.services.addresses import address, training, with_brokers
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.services.publishing import Publisher
from dl_mqtt_clients.services.status import StatusBoard, new_instance
from dl_mqtt_clients.services.uploads import Uploads
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.transport.base import Delivery, Will
from dl_mqtt_clients.wire.messages import (
    Answer,
    Command,
    History,
    ManagerStatus,
    Message,
    Metrics,
    NodeStatus,
    Offer,
    Participant,
    Reply,
    Round,
    RoundReport,
    Statistics,
    decode,
    encode,
)
from dl_mqtt_clients.wire.topics import NodeTopic, Topics
from dl_mqtt_clients.wire.weights import header_limit, nbytes, update_positions

log = logging.getLogger(__name__)

_NO_UPDATE = "0" * 64  # names no update: a refusal of a message that could not be read


class Manager(Service):
    """One federation's manager.

    `model` is a compiled Keras model (the core: it works in scaled space); without one, the base model in
    `artifacts/model` is taken (`fedlearn model build`), or else what the state folder holds.
    `rounds` ends `run()` after so many; `on_round(report)` is called after each.
    """

    def __init__(
        self,
        model: object | None = None,
        *,
        settings: Settings | None = None,
        broker: str | None = None,
        rounds: int | None = None,
        features: Sequence[str] = (),
        scaler: object | None = None,
        fresh: bool = False,
        on_round: Callable[[RoundReport], None] = lambda _report: None,
    ) -> None:
        super().__init__()
        self.settings = with_brokers(settings, broker)
        if rounds is not None:
            self.settings = self.settings.replace(**{"rounds.count": rounds})
        self._on_round = on_round
        self._exit = ExitStack()
        self._instance = new_instance()
        self._state: str = "starting"
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._nodes: dict[tuple[str, str], NodeStatus] = {}
        self._rounds_settings = self.settings.rounds
        self._training = training(self.settings.training)
        self._topics = Topics(self.settings.federation.name)

        folder = Path(self.settings.node.state_dir) / "manager"
        self._exit.enter_context(only_one(folder))
        try:
            self._store = Store(folder)
            self.versions = Versions(
                self._store, self.settings, model=model, features=features, scaler=scaler, fresh=fresh
            )
        except BaseException:
            self._exit.close()
            raise
        self._evaluation = Evaluation(self.versions.current.version)

    # ---- life ----

    def _start(self) -> None:
        topics = self._topics
        self._status = StatusBoard(
            self.loop, topics.manager_status, instance=self._instance, current=self._current_status
        )
        self._link = Link(
            self.loop,
            address(self.settings.broker),
            client_id=f"{self.settings.federation.name}/manager",
            will=Will(topics.manager_status, encode(ManagerStatus(state="lost", instance=self._instance))),
            on_message=self._receive,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
        )
        self._publisher = Publisher(topics, self._store, self._link)
        self._open(self._store.open_round() or OpenRound(round=self.versions.current.round + 1))
        self._link.start()

    def _finish(self) -> None:
        self._state = "finished" if self._is_finished else "stopped"
        try:
            if hasattr(self, "_link"):
                if self.versions.unpromoted:
                    self._promote()
                self.versions.export()
                self._status.goodbye()
                self._link.stop()
                self._spool.close()
        finally:
            self._exit.close()

    def _done(self) -> bool:
        return self._is_finished and not self.versions.unpromoted

    @property
    def _is_finished(self) -> bool:
        count = self._rounds_settings.count
        return bool(count) and self.versions.current.round >= count

    def _connected(self) -> None:
        self._publisher.connected()
        for pattern in (
            self._topics.status("+", "+"),
            self._topics.offer("+"),
            self._topics.update("+", "+", "+"),
            self._topics.statistics("+", "+"),
            self._topics.command,
        ):
            self._link.transport.subscribe(pattern)
        self._publisher.publish(self.versions.published())
        self._announce()
        self._publish_history()
        self._status.connected(self._link)

    def _disconnected(self, reason: str) -> None:
        self.last_error = reason

    # ---- messages ----

    def _receive(self, delivery: Delivery) -> None:
        if self._status.is_own(delivery) or self._publisher.found(delivery):
            return
        if delivery.topic == self._topics.command:
            self._command(delivery)
            return
        try:
            topic = self._topics.parse_node(delivery.topic)
        except MessageError as error:
            self._refuse_message(str(error))
            return
        handlers = {
            "status": self._node_status,
            "offer": self._offer,
            "update": self._chunk,
            "statistics": self._statistics,
        }
        handler = handlers.get(topic.kind)
        if handler is None or (topic.kind in ("offer", "update") and topic.role != "trainer"):
            self._refuse_message(f"topic: nothing is expected at {topic.role}/{topic.kind[:64]}")
            return
        try:
            handler(topic, delivery)
        except MessageError as error:
            self._refuse_message(f"{topic.node}: {error}")
            if topic.kind == "offer":
                self._reply(topic.node, "refusal", _NO_UPDATE, reason=str(error))

    def _node_status(self, topic: NodeTopic, delivery: Delivery) -> None:
        key = (topic.node, topic.role)
        if not delivery.payload:
            self._nodes.pop(key, None)
        else:
            self._nodes[key] = decode(delivery.payload, NodeStatus)
        self._status.changed()
        self._carry_out(self._round.tick(now=time.monotonic()))  # who lives decides the target

    def _offer(self, topic: NodeTopic, delivery: Delivery) -> None:
        offer = decode(delivery.payload, Offer)
        if self._store.free_bytes() - offer.bytes < self.settings.transfer.min_free_disk_bytes:
            self.last_error = "disk: too little free to take an update"
            self._reply(topic.node, "wait", offer.sha256, reason=self.last_error)
            self._status.changed()
            return
        self._carry_out(self._round.offer(topic.node, offer, now=time.monotonic()))

    def _chunk(self, topic: NodeTopic, delivery: Delivery) -> None:
        try:
            new = self._uploads.receive(topic.node, topic.sha256, topic.index, delivery.payload)
        except TransferError as error:
            self._carry_out(self._round.rejected(topic.node, str(error)))
            return
        if new:
            self._carry_out(self._round.chunk(topic.node, topic.sha256, topic.index, now=time.monotonic()))

    def _statistics(self, topic: NodeTopic, delivery: Delivery) -> None:
        statistics = decode(delivery.payload, Statistics)
        if statistics.version != self._evaluation.version or not self._is_known(topic.node):
            return
        try:
            self._evaluation.add(topic.node, topic.role, statistics)
        except ValueError as error:
            raise MessageError(str(error)) from error
        if not self.versions.unpromoted:
            self.loop.at("late statistics", 0.3, self._promote)
        elif self._evaluation.nodes("trainer") >= max(self._live_trainers(), 1):
            self._promote()

    def _command(self, delivery: Delivery) -> None:
        try:
            answer = self._obey(decode(delivery.payload, Command).command)
        except MessageError as error:
            answer = Answer(ok=False, message=str(error))
        if delivery.response_topic:
            self._link.transport.publish(delivery.response_topic, encode(answer), correlation=delivery.correlation)

    def _obey(self, command: str) -> Answer:
        if command == "stop":
            self.stop()
        elif command in ("pause", "start"):
            self._state = "paused" if command == "pause" else "waiting"
            self._announce()
            self._status.changed(now=True)
        else:
            return Answer(ok=False, message=f"{command}: not known to this manager")
        return Answer(ok=True, message=command)

    # ---- rounds ----

    def _open(self, open_round: OpenRound) -> None:
        """Make a round attempt durable and current, with whatever was accepted before a crash."""
        self._open_round = open_round
        self._spool = self._store.write_open_round(open_round)
        self._uploads = Uploads(
            self._spool,
            self.versions.variables,
            chunk_bytes=self.settings.transfer.chunk_bytes,
            max_delta=self._rounds_settings.max_delta,
        )
        self._opened_at = time.monotonic()
        plan = self._plan(open_round)
        self._sum = RunningSum(self.versions.update_shapes, bits=self._scale_bits(plan))
        for entry, data in self._spool.updates():
            self._sum.add(self._uploads.read(data), weight=entry.examples)
        self._round = engine.Round(
            plan,
            deadline=self._opened_at + self._rounds_settings.deadline_s,
            chunks_in_flight=self.settings.transfer.chunks_in_flight,
            is_known=self._is_known,
            expected_nodes=self._live_trainers,
            accepted=[entry.accepted() for entry in self._spool.entries],
        )
        self._store.drop_spools(but=self._spool)
        if self._state != "paused":
            self._state = "waiting"
        self._schedule()

    def _plan(self, open_round: OpenRound) -> engine.RoundPlan:
        settings = self._rounds_settings
        variables = [self.versions.variables[p] for p in update_positions(self.versions.variables)]
        size = nbytes([msgspec.structs.replace(v, dtype="float32") for v in variables])
        largest = size + 8 + header_limit(len(variables))
        cohort = max(self._live_trainers(), settings.target_updates, settings.min_updates) * open_round.fraction
        return engine.RoundPlan(
            round=open_round.round,
            attempt=open_round.attempt,
            base=self.versions.current.version,
            seed=self.settings.federation.seed,
            fraction=open_round.fraction,
            target_updates=settings.target_updates,
            min_updates=settings.min_updates,
            max_examples=settings.max_examples or self._training.window * self._training.epochs,
            update_bytes=(size + 8, min(largest, self.settings.transfer.max_update_bytes)),
            chunk_bytes=self.settings.transfer.chunk_bytes,
            inline_bytes=largest if largest * cohort <= self.settings.transfer.inline_bytes else 0,
        )

    def _scale_bits(self, plan: engine.RoundPlan) -> int:
        nodes = max(plan.target_updates, 1000)
        return scale_bits(max_abs=self._rounds_settings.max_delta, max_weight=float(plan.max_examples) * nodes)

    def _announce(self) -> None:
        """Publish the open round; its message expires with its deadline."""
        plan, now = self._round.plan, time.monotonic()
        is_open = self._state != "paused" and not self._is_finished
        left_s = max(self._round.deadline - now, 1.0)
        announcement = Round(
            generation=self._store.generation,
            round=plan.round,
            attempt=plan.attempt,
            phase="open" if is_open else ("idle" if self._is_finished else "paused"),
            base=plan.base,
            number=self.versions.current.number,
            fraction=plan.fraction,
            seed=plan.seed,
            deadline_s=round(left_s, 3),
            target_updates=self._round.target,
            min_updates=plan.min_updates,
            inline_bytes=plan.inline_bytes,
            chunk_bytes=plan.chunk_bytes,
            training=self._training,
        )
        self._publisher.announce(announcement, expiry_s=left_s if is_open else None)

    def _schedule(self) -> None:
        self.loop.at("round", self._round.next_tick(now=time.monotonic()) + 0.001, self._tick)

    def _tick(self) -> None:
        if self._state == "paused" or self._is_finished:
            return
        self._carry_out(self._round.tick(now=time.monotonic()))
        self._schedule()

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
                    self._count_refusal(reason)
                    self._reply(node, "refusal", sha256, reason=reason)
                case engine.Expect(node, offer):
                    self._state = "collecting" if self._state == "waiting" else self._state
                    self._uploads.expect(node, offer)
                case engine.Forget(node):
                    self._uploads.forget(node)
                case engine.Verify(node):
                    self._verify(node)
                case engine.Close():
                    self._close()
                case engine.Abandon():
                    self._abandon()

    def _verify(self, node: str) -> None:
        """Check an update; when it is right, store it, count it, and only then let the receipt leave."""
        try:
            update = self._uploads.check(node)
            examples = self._round.weight(self._uploads.offer(node))
            self._sum.check(update, examples)
        except (TransferError, RefusedError) as error:
            self._carry_out(self._round.rejected(node, str(error)))
            return
        self._uploads.accept(node, examples=examples)
        decisions = self._round.stored(node, now=time.monotonic())
        self._carry_out(decisions[:1])  # the receipt: the node need not wait for our arithmetic
        self._sum.add(update, weight=examples)
        self._accepted += 1
        self._status.changed()
        self._carry_out(decisions[1:])

    def _close(self) -> None:
        """Merge, publish the new version, and announce the next round."""
        if self.versions.unpromoted:
            self._promote()
        report = self._report("merged")
        self.versions.merge(self._sum.mean(), round_number=self._open_round.round, metrics=report.metrics)
        current = self.versions.current
        report = msgspec.structs.replace(report, version=current.version, number=current.number)
        self._store.append_history(report)
        self._evaluation = Evaluation(current.version)
        self._next_round(OpenRound(round=current.round + 1, fraction=self._rounds_settings.fraction))
        self.loop.at("promote", self._rounds_settings.statistics_deadline_s, self._promote_at_deadline)
        self._tell(report)

    def _abandon(self) -> None:
        """Too few came: the same round again, with more nodes asked. Nobody there at all: wait on."""
        if not self._live_trainers() and not self._round.accepted:
            self._next_round(self._open_round)
            return
        report = self._report("abandoned")
        self._store.append_history(report)
        before = self._open_round
        self._next_round(
            OpenRound(
                round=before.round,
                attempt=before.attempt + 1,
                fraction=min(1.0, before.fraction * self._rounds_settings.fraction_growth),
            )
        )
        self._tell(report)

    def _next_round(self, open_round: OpenRound) -> None:
        self._spool.close()
        self._open(open_round)
        pause_s = self._rounds_settings.pause_s
        self._publisher.publish(self.versions.published())
        if pause_s and not self._is_finished:
            self.loop.at("announce", pause_s, self._announce_after_pause)
        else:
            self._announce()
        self._publisher.clear_all_but(self.versions.reachable())

    def _announce_after_pause(self) -> None:
        self._round.deadline = time.monotonic() + self._rounds_settings.deadline_s
        self._announce()
        self._schedule()

    def _report(self, outcome: str) -> RoundReport:
        accepted = list(self._round.accepted.values())
        examples = sum(a.examples for a in accepted)
        known = [a for a in accepted if a.loss is not None]
        loss = sum(a.loss * a.examples for a in known if a.loss is not None) / max(sum(a.examples for a in known), 1)
        live = {node for (node, role) in self._live() if role == "trainer"}
        return RoundReport(
            round=self._open_round.round,
            attempt=self._open_round.attempt,
            outcome=outcome,  # type: ignore[arg-type]
            seconds=round(time.monotonic() - self._opened_at, 4),
            participants=tuple(
                Participant(node=a.node, examples=a.examples, weight=a.examples / examples, loss=a.loss)
                for a in sorted(accepted, key=lambda a: a.node)
            ),
            refused=dict(self._round.refused),
            left_out=tuple(sorted(n for n in live - set(self._round.accepted) if self._round.is_drawn(n))),
            metrics=Metrics(loss=loss if known else None, examples=examples, nodes=len(accepted)),
        )

    # ---- promotion ----

    def _promote_at_deadline(self) -> None:
        if self.versions.unpromoted:
            self._promote()

    def _promote(self) -> None:
        """Publish the newest version for production, with the threshold its nodes' statistics give."""
        self.loop.cancel("promote")
        threshold = self.settings.threshold.value
        if threshold is None:
            threshold = self._evaluation.threshold(self.settings.threshold.quantile)
        metrics = self._evaluation.metrics(self.versions.current.metrics)
        if not self.versions.promote(threshold=threshold, metrics=metrics):
            return
        production = self.versions.production
        for report in self._store.history(1):
            if production is not None and report.version == production.version:
                report = msgspec.structs.replace(report, metrics=metrics, threshold=production.threshold)
                self._store.append_history(report)
        self._publisher.publish(self.versions.published())
        self._publish_history()
        self._status.changed()
        self.versions.export()

    # ---- small things ----

    def _tell(self, report: RoundReport) -> None:
        self._publish_history()
        self._status.changed(now=True)
        log.info(
            "round %d.%d %s: %d updates, %.2f s",
            report.round, report.attempt, report.outcome, len(report.participants), report.seconds,
        )  # fmt: skip
        self._on_round(report)

    def _publish_history(self) -> None:
        history = self._store.history(self._rounds_settings.history)
        self._publisher.history(History(generation=self._store.generation, rounds=tuple(history)))

    def _reply(self, node: str, kind: str, sha256: str, *, chunks: tuple[int, ...] = (), reason: str = "") -> None:
        reply: Message = Reply(
            kind=kind,  # type: ignore[arg-type]
            round=self._open_round.round,
            attempt=self._open_round.attempt,
            sha256=sha256,
            chunks=chunks,
            reason=reason[:2000],
        )
        self._link.send(self._topics.reply(node), reply)

    def _refuse_message(self, reason: str) -> None:
        self.last_error = reason[:1000]
        self._count_refusal("malformed message")

    def _count_refusal(self, reason: str) -> None:
        self._refused[reason.partition(":")[0]] += 1
        self._status.changed()

    def _is_known(self, node: str) -> bool:
        allowed = self.settings.federation.nodes
        return not allowed or node in allowed

    def _live(self) -> list[tuple[str, str]]:
        return [key for key, status in self._nodes.items() if status.state not in ("lost", "stopped")]

    def _live_trainers(self) -> int:
        return sum(role == "trainer" and self._is_known(node) for node, role in self._live())

    def _current_status(self) -> ManagerStatus:
        production = self.versions.production
        return ManagerStatus(
            state=self._state,  # type: ignore[arg-type]
            instance=self._instance,
            generation=self._store.generation,
            round=self._open_round.round,
            attempt=self._open_round.attempt,
            version=self.versions.current.number,
            production=production.number if production else 0,
            nodes=len({node for node, _ in self._live()}),
            accepted=self._accepted,
            refused=dict(self._refused),
            last_error=self.last_error,
        )
