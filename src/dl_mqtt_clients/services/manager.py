"""The manager: announces rounds, merges updates, keeps versions, promotes a model to production.

This service turns messages into events: of the rounds (`round_cycle`) and of what becomes production (`promoting`). The
truth is on disk (`aggregation.store`); what is published is published again on every connect.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError, ModelError, StateError
from dl_mqtt_clients.services.comparing import compare
from dl_mqtt_clients.services.from_settings import address, check_rules, with_brokers
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.services.promoting import Promoting
from dl_mqtt_clients.services.publishing import Publisher
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.round_cycle import RoundCycle
from dl_mqtt_clients.services.status import StatusBoard, new_instance
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.transport.base import Delivery, Will
from dl_mqtt_clients.wire.feature_sums import FeatureReport
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
HISTORY_BYTES: Final = 1 << 20  # of the published history: a round of 2,000 nodes is 350 KB
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
        self._refused: Counter[str] = Counter()
        self._roster = Roster(self.settings.federation.nodes, require=self.settings.rounds.require)
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
        self._promoting = Promoting(
            loop=self.loop,
            store=self._store,
            versions=self.versions,
            settings=self.settings,
            roster=self._roster,
            on_judged=self._judged,
        )

    # ---- life ----

    def _start(self) -> None:
        topics = self._topics
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
        self._cycle = self._first_round()
        if self._cycle.is_finished:
            log.info("all %d rounds are done already", self.settings.rounds.count)
        self._promoting.resume()
        self._status.begin(self._link)
        self._link.start(
            topics.status("+", "+"),
            topics.offer("+"),
            topics.update("+", "+", "+"),
            topics.statistics("+", "+"),
            topics.features("+"),
            topics.command,
            self._publisher.leftovers,
        )

    def _first_round(self) -> RoundCycle:
        try:
            return RoundCycle(
                loop=self.loop,
                store=self._store,
                versions=self.versions,
                settings=self.settings,
                roster=self._roster,
                publisher=self._publisher,
                send=self._reply,
                before_version=self._promoting.finish,
                on_version=self._promoting.begin,
                on_report=self._tell,
                on_refusal=self._count_refusal,
                on_error=self._note_and_tell,
                should_return=self._promoting.should_return,
                quarantine=self._promoting.quarantine,
            )
        except OSError as error:
            raise StateError(f"{self._store.folder}: cannot be written: {error}") from error

    def _finish(self) -> None:
        with ExitStack() as ends:  # each of them, whatever happens to the others; the last one first
            ends.callback(self._exit.close)
            if not hasattr(self, "_cycle"):
                return
            self._state = "finished" if self._cycle.is_finished else "stopped"
            ends.callback(self._cycle.close)
            ends.callback(self._link.stop)
            ends.callback(self._status.goodbye)
            if not self._status.displaced:
                self._promoting.finish()
                self._export()

    def _done(self) -> bool:
        return self._cycle.is_finished and self._promoting.is_done

    def _connected(self) -> None:
        self._roster.resume()
        self.loop.at("settled", SETTLED_AFTER_S, self._settled)
        self._publisher.connected(self.versions.published())
        self._cycle.announce()
        self._publish_history()
        self._status.connected()

    def _settled(self) -> None:
        """Whoever is there has shown: their retained statuses came before our own came back."""
        self.loop.cancel("settled")
        self._roster.is_settled = True
        self._cycle.tick()

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
            "features": self._features,
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
            self._cycle.follow_up()

    def _node_status(self, topic: NodeTopic, delivery: Delivery) -> None:
        status = decode(delivery.payload, NodeStatus) if delivery.payload else None
        self._roster.heard(topic.node, topic.role, status)
        if topic.role == "predictor" and self._roster.is_known(topic.node):
            self._promoting.hear_predictor(topic.node, status)
        if topic.role == "trainer" and self._roster.is_known(topic.node):
            self._cycle.hear_status(topic.node, status)
        self._status.changed()
        if not self.loop.pending("who lives"):
            self.loop.at("who lives", WHO_LIVES_AFTER_S, self._cycle.tick)  # it decides the target

    def _offer(self, topic: NodeTopic, delivery: Delivery) -> None:
        offer = decode(delivery.payload, Offer)
        if self._cycle.phase == "scaling":
            self._refuse(topic.node, "a scaler is being agreed on", kind="wait", sha256=offer.sha256)
            return
        collector = self._cycle.collector
        held = collector.holds(topic.node, offer.sha256)
        if not held and self._store.free_bytes() - offer.bytes < self.settings.transfer.min_free_disk_bytes:
            self.last_error = "disk: too little free to take an update"
            self._refuse(topic.node, self.last_error, kind="wait", sha256=offer.sha256)
            return
        collector.offer(topic.node, offer)
        self._status.changed()

    def _chunk(self, topic: NodeTopic, delivery: Delivery) -> None:
        self._cycle.collector.chunk(topic, delivery.payload)
        self._cycle.commit_soon()

    def _statistics(self, topic: NodeTopic, delivery: Delivery) -> None:
        self._promoting.hear(topic.node, topic.role, decode(delivery.payload, Statistics))

    def _features(self, topic: NodeTopic, delivery: Delivery) -> None:
        self._cycle.rescaling.hear(topic.node, decode(delivery.payload, FeatureReport))
        self._status.changed()

    def _command(self, delivery: Delivery) -> None:
        """MessageError, after the answer, when it is none."""
        if delivery.retained:
            return  # it was for a manager of the past
        try:
            answer = self._obey(decode(delivery.payload, Command))
        except MessageError as error:
            self._answer(delivery, Answer(ok=False, message=str(error)))
            raise
        self._answer(delivery, answer)

    def _answer(self, delivery: Delivery, answer: Answer) -> None:
        topic = delivery.response_topic
        if topic and topic.startswith(self._topics.answer("")):  # nowhere else
            self._link.transport.publish(topic, encode(answer), correlation=delivery.correlation)

    def _obey(self, order: Command) -> Answer:
        command = order.command
        if command == "stop":
            self.stop()
        elif command == "release":
            self._cycle.let_in()
        elif command == "round":
            self._cycle.ask_for_round()
        elif command in ("pause", "start"):
            self._cycle.pause(paused=command == "pause")
            self._status.changed(now=True)
        else:
            return self._decide(order)
        return Answer(ok=True, message=command)

    def _decide(self, order: Command) -> Answer:
        """What becomes production, by an operator's word; or what two versions differ in."""
        try:
            if order.command == "diff":
                return Answer(ok=True, message="diff", differences=compare(self._store, order))
            if order.command == "promote":
                done = self._promoting.promote(order.version)
            elif order.command == "rollback":
                done = self._promoting.roll_back(order.version, hold=order.hold)
            else:
                self._cycle.rescale()
                done = "a new scaler is being agreed on"
        except (ModelError, StateError, OSError) as error:
            return Answer(ok=False, message=str(error)[:2000])
        self._status.changed(now=True)
        return Answer(ok=True, message=done)

    # ---- what follows ----

    def _judged(self) -> None:
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
        wanted = min(self.settings.rounds.history, self._store.reports)
        rounds = self._store.history(wanted, most_bytes=HISTORY_BYTES)
        if wanted and not rounds:
            rounds = [_without_names(report) for report in self._store.history(1)]
        omitted = wanted - len(rounds)
        self._publisher.history(History(generation=self._store.generation, rounds=tuple(rounds), omitted=omitted))

    def _refuse(self, node: str, reason: str, *, kind: str = "refusal", sha256: str = _NO_UPDATE) -> None:
        """Answer an offer that does not reach the round."""
        open_round = self._cycle.open_round
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

    def _note_and_tell(self, error: Exception) -> None:
        self._note_error(error)
        self._status.changed()

    def _refuse_message(self, reason: str) -> None:
        self.last_error = reason[:1000]
        self._count_refusal("malformed message")

    def _count_refusal(self, reason: str) -> None:
        kind = _VARIABLE.sub("", reason.partition(":")[0]).strip()[:80]  # without numbers: few kinds
        self._refused[kind if kind in self._refused or len(self._refused) < MOST_KINDS else "other"] += 1
        self._status.changed()

    def current_status(self) -> ManagerStatus:
        production, open_round = self.versions.production, self._cycle.open_round
        return ManagerStatus(
            state=self._current_state(),  # type: ignore[arg-type]
            instance=self._instance,
            generation=self._store.generation,
            round=open_round.round,
            attempt=open_round.attempt,
            version=self.versions.current.number,
            production=production.number if production else 0,
            nodes=len(self._roster.live_nodes()),
            accepted=self._cycle.accepted,
            refused=dict(self._refused),
            rejected=self._promoting.rejected,
            on_hold=self._promoting.on_hold,
            detail=self._cycle.rescaling.progress(),
            last_error=self.last_error,
        )

    def _current_state(self) -> str:
        if self._state != "waiting":
            return self._state
        if self._cycle.phase in ("paused", "scaling"):
            return self._cycle.phase
        return "collecting" if self._cycle.collector.has_begun else self._state


def _without_names(report: RoundReport) -> RoundReport:
    """The numbers alone, where the names are too many for a message."""
    unnamed = len(report.participants) + len(report.refused) + len(report.left_out)
    return msgspec.structs.replace(report, participants=(), refused={}, left_out=(), unnamed=unnamed)
