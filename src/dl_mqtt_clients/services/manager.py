"""The manager: announces rounds, merges updates, keeps versions, promotes a model to production.

The decisions are the round engine's (`aggregation.rounds`), the truth is on disk (`aggregation.store`); this service
turns messages into events. What is published is published again on every connect.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dl_mqtt_clients.aggregation.evaluation import Evaluation
from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError, ModelError, StateError
from dl_mqtt_clients.services.collecting import Collector
from dl_mqtt_clients.services.from_settings import address, check_rules, training, with_brokers
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import FATAL, Service
from dl_mqtt_clients.services.publishing import Publisher
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.status import StatusBoard, new_instance
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.transport.base import Delivery, Will
from dl_mqtt_clients.wire.messages import (
    Answer,
    Command,
    History,
    ManagerStatus,
    NodeStatus,
    Offer,
    Reply,
    RoundReport,
    Statistics,
    decode,
    encode,
)
from dl_mqtt_clients.wire.topics import NodeTopic, Topics

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.scaling import ScalerValues

log = logging.getLogger(__name__)

SETTLED_AFTER_S: Final = 2.0  # after connecting, should our own status not come back
WHO_LIVES_AFTER_S: Final = 0.02  # statuses come in floods: looked at together
HISTORY_BYTES: Final = 1 << 20  # of the published history: a round of 2,000 nodes is 160 KB
COMMIT_WITHIN_S: Final = 0.02  # while messages wait: what they bring may be stored together
AGAIN_AFTER_S: Final = 2.0  # when a round could not be closed
MOST_STATISTICS: Final = 4096  # nodes whose statistics are kept though no status of theirs was heard
MOST_KINDS: Final = 50  # of refusals, in the status
_VARIABLE: Final = re.compile(r"\b[0-9a-f]{8,}\b…?|\d+|…")
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
        scaler: "ScalerValues | None" = None,
        fresh: bool = False,
        on_round: Callable[[RoundReport], None] = lambda _report: None,
    ) -> None:
        super().__init__()
        self.settings = with_brokers(settings, broker)
        if rounds is not None:
            self.settings = self.settings.replace(**{"rounds.count": rounds})
        check_rules(self.settings)
        self._on_round = on_round
        self._exit = ExitStack()
        self._instance = new_instance()
        self._state: str = "waiting"
        self._paused = False
        self._accepted = 0
        self._refused: Counter[str] = Counter()
        self._roster = Roster(self.settings.federation.nodes, require=self.settings.rounds.require)
        self._measuring: set[str] = set()  # predictors whose streams have labels
        self._rounds = self.settings.rounds
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
        try:
            self._complete_history()
            self._open(self._store.open_round() or self._next_round())
        except OSError as error:
            raise StateError(f"{self._store.folder}: cannot be written: {error}") from error
        self._status = StatusBoard(
            self.loop,
            topics.manager_status,
            instance=self._instance,
            past=self._store.folder / "instances",
            current=self.current_status,
            on_settled=self._settled,
        )
        self._link = Link(
            self.loop,
            address(self.settings.broker),
            client_id=f"{self.settings.federation.name}:manager",
            will=Will(topics.manager_status, encode(ManagerStatus(state="lost", instance=self._instance))),
            on_message=self._receive,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
        )
        self._publisher = Publisher(topics, self._store, self._link)
        if self._is_finished:
            log.info("all %d rounds are done already", self._rounds.count)
        if self.versions.unpromoted and self.versions.current.number:  # killed before it was
            self.loop.at("promote", self._rounds.statistics_deadline_s, self._promote_at_deadline)
        self._status.begin(self._link)
        self._link.start(
            topics.status("+", "+"),
            topics.offer("+"),
            topics.update("+", "+", "+"),
            topics.statistics("+", "+"),
            topics.command,
            self._publisher.leftovers,
        )

    def _finish(self) -> None:
        self._state = "finished" if self._is_finished else "stopped"
        with ExitStack() as ends:  # each of them, whatever happens to the others; the last one first
            ends.callback(self._exit.close)
            if not hasattr(self, "_link"):
                return
            ends.callback(self._collector.close)
            ends.callback(self._link.stop)
            ends.callback(self._status.goodbye)
            if not self._status.displaced:
                if self.versions.unpromoted and self.versions.current.number:
                    self._promote()
                self._export()

    def _done(self) -> bool:
        return self._is_finished and not self.versions.unpromoted and not self._awaits_measurements

    @property
    def _awaits_measurements(self) -> bool:
        """Whether predictors that measured earlier versions may still tell what they find of the last one."""
        expected = len(self._measuring & self._roster.live_nodes())
        complete = self._evaluation.nodes("predictor") >= expected
        return self.loop.pending("late statistics") or (not complete and self.loop.pending("measured"))

    @property
    def _is_finished(self) -> bool:
        count = self._rounds.count
        return bool(count) and self.versions.current.round >= count

    def _connected(self) -> None:
        self._roster.resume()
        self.loop.at("settled", SETTLED_AFTER_S, self._settled)
        self._publisher.connected(self.versions.published())
        self._announce()
        self._publish_history()
        self._status.connected()

    def _settled(self) -> None:
        """Whoever is there has shown: their retained statuses came before our own came back."""
        self.loop.cancel("settled")
        self._roster.is_settled = True
        self._tick()

    def _disconnected(self, reason: str) -> None:
        self._roster.is_settled = False
        self.last_error = reason

    # ---- messages ----

    def _receive(self, delivery: Delivery) -> None:
        try:
            if self._status.is_own(delivery) or self._publisher.found(delivery):
                return
            if delivery.topic == self._topics.command:
                self._command(delivery)
                return
            topic = self._topics.parse_node(delivery.topic)
        except MessageError as error:
            self._refuse_message(f"{delivery.topic[:200]}: {error}")
            return
        handlers = {
            "status": self._node_status,
            "offer": self._offer,
            "update": self._chunk,
            "statistics": self._statistics,
        }
        handler = handlers.get(topic.kind)
        if handler is None:
            return
        try:
            handler(topic, delivery)
        except MessageError as error:
            self._refuse_message(f"{topic.node}: {error}")
            if topic.kind == "offer":
                self._refuse(topic.node, str(error))
        finally:
            self._follow_up()

    def _node_status(self, topic: NodeTopic, delivery: Delivery) -> None:
        status = decode(delivery.payload, NodeStatus) if delivery.payload else None
        self._roster.heard(topic.node, topic.role, status)
        self._status.changed()
        if not self.loop.pending("who lives"):
            self.loop.at("who lives", WHO_LIVES_AFTER_S, self._tick)  # it decides the target

    def _offer(self, topic: NodeTopic, delivery: Delivery) -> None:
        offer = decode(delivery.payload, Offer)
        held = self._collector.holds(topic.node, offer.sha256)
        if not held and self._store.free_bytes() - offer.bytes < self.settings.transfer.min_free_disk_bytes:
            self.last_error = "disk: too little free to take an update"
            self._refuse(topic.node, self.last_error, kind="wait", sha256=offer.sha256)
            return
        self._collector.offer(topic.node, offer)
        self._status.changed()

    def _chunk(self, topic: NodeTopic, delivery: Delivery) -> None:
        self._collector.chunk(topic, delivery.payload)
        if self._collector.uncommitted:
            if not self.loop.backlog:
                self._collector.commit()
            elif not self.loop.pending("commit"):
                self.loop.at("commit", COMMIT_WITHIN_S, self._commit)

    def _commit(self) -> None:
        try:
            self._collector.commit()
        finally:
            self._follow_up()

    def _statistics(self, topic: NodeTopic, delivery: Delivery) -> None:
        statistics = decode(delivery.payload, Statistics)
        if statistics.version != self._evaluation.version or not self._may_count(topic.node):
            return
        try:
            self._evaluation.add(topic.node, topic.role, statistics)
        except ValueError as error:
            raise MessageError(str(error)) from error
        if topic.role == "predictor":
            self._measuring.add(topic.node)
        if not self.versions.unpromoted:
            self.loop.at("late statistics", 0.3, self._promote)
        elif self._has_heard_all():
            self._promote()

    def _has_heard_all(self) -> bool:
        """Whether no more statistics of the newest version can be waited for; the base waits for readings as well."""
        known = self.versions.current.number > 0 or self._evaluation.threshold(0.5) is not None
        return known and self._evaluation.nodes("trainer") >= max(len(self._roster.live_trainers()), 1)

    def _may_count(self, node: str) -> bool:
        """Statistics are kept until the next version, kilobytes a node: not those of any number of strangers."""
        many = self._evaluation.nodes("trainer") + self._evaluation.nodes("predictor") >= MOST_STATISTICS
        return self._roster.is_known(node) and (not many or node in self._roster.live_nodes())

    def _command(self, delivery: Delivery) -> None:
        """MessageError, after the answer, when it is none."""
        if delivery.retained:
            return  # it was for a manager of the past
        try:
            answer = self._obey(decode(delivery.payload, Command).command)
        except MessageError as error:
            self._answer(delivery, Answer(ok=False, message=str(error)))
            raise
        self._answer(delivery, answer)

    def _answer(self, delivery: Delivery, answer: Answer) -> None:
        topic = delivery.response_topic
        if topic and topic.startswith(self._topics.answer("")):  # nowhere else
            self._link.transport.publish(topic, encode(answer), correlation=delivery.correlation)

    def _obey(self, command: str) -> Answer:
        if command == "stop":
            self.stop()
        elif command in ("pause", "start"):
            self._paused = command == "pause"
            self._collector.restart_clock()
            self._announce()
            self._status.changed(now=True)
        else:
            return Answer(ok=False, message=f"{command}: not known to this manager")
        return Answer(ok=True, message=command)

    # ---- rounds ----

    def _open(self, open_round: OpenRound) -> None:
        """Make a round attempt durable and current."""
        self._collector = Collector(
            open_round,
            store=self._store,
            versions=self.versions,
            settings=self.settings,
            training=training(self.settings.training, round_number=open_round.round),
            roster=self._roster,
            send=self._reply,
        )

    def _announce(self) -> None:
        """Publish the open round; its message expires with its deadline."""
        idle = self._is_finished or self._resting
        phase = "idle" if idle else "paused" if self._paused else "open"
        announcement = self._collector.announcement(
            generation=self._store.generation, number=self.versions.current.number, phase=phase
        )
        self._publisher.announce(announcement, expiry_s=announcement.deadline_s if phase == "open" else None)
        self._watch_the_clock()

    @property
    def _resting(self) -> bool:
        """Between two rounds."""
        return self.loop.pending("pause")

    def _watch_the_clock(self) -> None:
        if not (self._paused or self._is_finished or self._resting):
            self.loop.at("round", self._collector.next_tick_s(), self._tick)

    def _tick(self) -> None:
        if self._paused or self._resting:
            return
        try:
            self._collector.tick()
        finally:
            self._follow_up()
            self._watch_the_clock()

    def _follow_up(self) -> None:
        """After every event of the round: count, and act when it is over."""
        for reason in self._collector.refusals:
            self._count_refusal(reason)
        self._collector.refusals.clear()
        try:
            if self._collector.is_renewed:
                self._collector.is_renewed = False
                self._announce()
            while self._collector.outcome is not None and not self._is_finished:
                self._end_round()
        except OSError as error:  # a full disk, as a rule: nothing is lost, and all of it can be done again
            log.exception("round %d cannot be closed; trying again", self._collector.open_round.round)
            self._note_error(error)
            self._status.changed()
            self.loop.at("again", AGAIN_AFTER_S, self._follow_up)

    def _end_round(self) -> None:
        """Merge or abandon, and announce what comes next."""
        collector = self._collector
        if collector.is_empty and not self._roster.live_trainers():
            collector.close()
            self._open(collector.open_round)  # nobody there at all: wait on
            self._announce()
            return
        report = collector.report()
        if report.outcome == "merged":
            report = self._merge_or_abandon(report)
        self._store.append_history(report)
        collector.close()
        self._open(self._following(collector.open_round, report))
        self._accepted += collector.accepted
        self._publish_round()
        self._tell(report)

    def _complete_history(self) -> None:
        """A round that was merged just before a crash left no report: its version says the most of it."""
        current = self.versions.current
        attempts = [r for r in self._store.history(self._rounds.history or 1) if r.round == current.round]
        if current.number and not any(r.outcome == "merged" for r in attempts):
            report = RoundReport(
                round=current.round,
                attempt=1 + max((r.attempt for r in attempts), default=0),
                outcome="merged",
                version=current.version,
                number=current.number,
                metrics=current.metrics,
            )
            self._store.append_history(report)

    def _following(self, before: OpenRound, report: RoundReport) -> OpenRound:
        """After a merge the next round; after an abandoned attempt the same one, with more nodes asked."""
        if report.outcome == "merged":
            return self._next_round()
        fraction = min(1.0, before.fraction * self._rounds.fraction_growth)
        return OpenRound(round=before.round, attempt=before.attempt + 1, fraction=fraction)

    def _next_round(self) -> OpenRound:
        return OpenRound(round=self.versions.current.round + 1, fraction=self._fraction())

    def _fraction(self) -> float:
        """Of the nodes that are asked: more than are needed, when over-selection says so."""
        live, wanted = len(self._roster.live_trainers()), self._rounds.target_updates * self._rounds.over_selection
        if self._rounds.over_selection > 1.0 and 0 < wanted < live:
            return wanted / live
        return self._rounds.fraction

    def _merge_or_abandon(self, report: RoundReport) -> RoundReport:
        """A strategy that cannot merge what came, or fails, must not stop the federation: the round is tried again."""
        try:
            return self._merge(report)
        except (*FATAL, OSError):
            raise
        except Exception as error:  # a strategy of the operator's own may raise anything
            log.exception("round %d cannot be merged by %s", report.round, self._collector.strategy)
            self._note_error(error)
            return msgspec.structs.replace(report, outcome="abandoned")

    def _merge(self, report: RoundReport) -> RoundReport:
        if self.versions.current.round < report.round:  # else it was, and something failed afterwards
            if self.versions.unpromoted and self.versions.current.number:
                self._promote()
            self.versions.merge(
                self._collector.merged(),
                round_number=report.round,
                metrics=report.metrics,
                strategy=self._collector.strategy,
                updates=self._collector.accepted_updates(),
            )
        current = self.versions.current
        self._evaluation = Evaluation(current.version)
        self.loop.at("promote", self._rounds.statistics_deadline_s, self._promote_at_deadline)
        return msgspec.structs.replace(report, version=current.version, number=current.number)

    def _publish_round(self) -> None:
        self._publisher.publish(self.versions.published())
        if self._rounds.pause_s and not self._is_finished:
            self.loop.cancel("round")
            self.loop.at("pause", self._rounds.pause_s, self._announce_after_pause)
        self._announce()
        self._publisher.clear_all_but(self.versions.reachable())

    def _announce_after_pause(self) -> None:
        self._collector.restart_clock()
        self._announce()
        self._tick()

    # ---- promotion ----

    def _promote_at_deadline(self) -> None:
        if self.versions.unpromoted:
            self._promote()

    def _promote(self) -> None:
        """Publish the newest version for production, with the threshold its nodes' statistics give."""
        self.loop.cancel("promote")
        if self.versions.unpromoted:
            self.loop.at("measured", self._rounds.statistics_deadline_s, lambda: None)
        threshold = self.settings.threshold.value
        if threshold is None:
            threshold = self._evaluation.threshold(self.settings.threshold.quantile)
        metrics = self._evaluation.metrics(self.versions.current.metrics)
        if not self.versions.promote(threshold=threshold, metrics=metrics):
            return
        production = self.versions.production
        last = next(iter(self._store.history(1)), None)
        if production is not None and last is not None and last.version == production.version:
            threshold = production.threshold
            self._store.append_history(msgspec.structs.replace(last, metrics=metrics, threshold=threshold))
        self._publisher.publish(self.versions.published())
        self._publish_history()
        self._status.changed()
        self._export()

    def _export(self) -> None:
        """For people and other programs; a full disk or a folder that cannot be written stops no federation."""
        try:
            self.versions.export()
        except (OSError, StateError, ModelError) as error:
            self._note_error(error)
            log.warning("the updated model cannot be written: %s", error)

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
        wanted = min(self._rounds.history, self._store.reports)
        rounds = self._store.history(wanted, most_bytes=HISTORY_BYTES)
        if wanted and not rounds:
            rounds = [_without_names(report) for report in self._store.history(1)]
        omitted = wanted - len(rounds)
        self._publisher.history(History(generation=self._store.generation, rounds=tuple(rounds), omitted=omitted))

    def _refuse(self, node: str, reason: str, *, kind: str = "refusal", sha256: str = _NO_UPDATE) -> None:
        """Answer an offer that does not reach the round."""
        open_round = self._collector.open_round
        reply = Reply(
            kind=kind,  # type: ignore[arg-type]
            round=open_round.round,
            attempt=open_round.attempt,
            sha256=sha256,
            reason=reason[:2000],
        )
        self._reply(node, reply)

    def _reply(self, node: str, reply: Reply) -> None:
        self._link.send(self._topics.reply(node), reply)

    def _refuse_message(self, reason: str) -> None:
        self.last_error = reason[:1000]
        self._count_refusal("malformed message")

    def _count_refusal(self, reason: str) -> None:
        kind = _VARIABLE.sub("", reason.partition(":")[0]).strip()[:80]  # without numbers: few kinds
        self._refused[kind if kind in self._refused or len(self._refused) < MOST_KINDS else "other"] += 1
        self._status.changed()

    def current_status(self) -> ManagerStatus:
        production, open_round = self.versions.production, self._collector.open_round
        return ManagerStatus(
            state=self._current_state(),  # type: ignore[arg-type]
            instance=self._instance,
            generation=self._store.generation,
            round=open_round.round,
            attempt=open_round.attempt,
            version=self.versions.current.number,
            production=production.number if production else 0,
            nodes=len(self._roster.live_nodes()),
            accepted=self._accepted + self._collector.accepted,
            refused=dict(self._refused),
            last_error=self.last_error,
        )

    def _current_state(self) -> str:
        if self._state == "waiting" and self._paused:
            return "paused"
        return "collecting" if self._state == "waiting" and self._collector.has_begun else self._state


def _without_names(report: RoundReport) -> RoundReport:
    """The numbers alone, where the names are too many for a message."""
    unnamed = len(report.participants) + len(report.refused) + len(report.left_out)
    return msgspec.structs.replace(report, participants=(), refused={}, left_out=(), unnamed=unnamed)
