"""Rounds one after another: open one, announce it, close or abandon it, merge, begin the next.

What an open round decides is the engine's (`aggregation.rounds`, carried out by `collecting`); here is what comes
between two of them.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from dl_mqtt_clients.aggregation import triggers
from dl_mqtt_clients.aggregation.drift import STRONG
from dl_mqtt_clients.aggregation.scaler import Scaler
from dl_mqtt_clients.aggregation.store import OpenRound, Store
from dl_mqtt_clients.aggregation.triggers import Commanded, Drifted, Ended, Event, Gone, Received, Tick, TriggerState
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.services.clock import now_text
from dl_mqtt_clients.services.collecting import Collector, Send
from dl_mqtt_clients.services.from_settings import training, trigger_rules
from dl_mqtt_clients.services.loop import FATAL, Loop
from dl_mqtt_clients.services.publishing import Publisher
from dl_mqtt_clients.services.rescaling import Rescaling
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import NodeStatus, Participant, RoundReport

log = logging.getLogger(__name__)

COMMIT_WITHIN_S: Final = 0.02  # while messages wait: what they bring may be stored together
MOST_NAMED: Final = 100  # nodes in a report that drift
AGAIN_AFTER_S: Final = 2.0  # when a round could not be closed
ANNOUNCE_EVERY_S: Final = 30.0  # rumqttd forgets one too early: every subscriber takes from what is left of its expiry


class RoundCycle:
    """Continues the round that was open before a crash.

    Begins a round when the triggers say so (`aggregation.triggers`), which is at once as long as nobody asks for less.
    `before_version()` and `on_version()` run around every new version, `on_report(report)` after every attempt,
    `on_refusal(reason)` for every refusal, `on_error(error)` when something must be tried again.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        versions: Versions,
        settings: Settings,
        roster: Roster,
        publisher: Publisher,
        send: Send,
        before_version: Callable[[], None],
        on_version: Callable[[], None],
        on_report: Callable[[RoundReport], None],
        on_refusal: Callable[[str], None],
        on_error: Callable[[Exception], None],
        should_return: Callable[[], bool],
        quarantine: Callable[[], float | None],
    ) -> None:
        self.is_paused = False
        self._loop, self._store, self._versions, self._publisher = loop, store, versions, publisher
        self._settings, self._rounds, self._roster, self._send = settings, settings.rounds, roster, send
        self._before_version, self._on_version, self._on_report = before_version, on_version, on_report
        self._on_refusal, self._on_error, self._should_return = on_refusal, on_error, should_return
        self._quarantine = quarantine
        self._accepted = 0  # in rounds before the open one
        self._drifting: set[str] = set()  # trainers that report strong drift
        self.rescaling = Rescaling(
            loop=loop, store=store, versions=versions, settings=settings, roster=roster, on_agreed=self._take_scaler
        )
        self._complete_history()
        open_round = store.open_round() or self._next_round()
        self._trigger = TriggerState(
            trigger_rules(settings.rounds),
            ended_s=time.monotonic() - settings.rounds.pause_s,  # the first one need not wait
            is_running=bool(open_round.reason),
        )
        reason = open_round.reason or self._decide(Tick())
        self._open(msgspec.structs.replace(open_round, reason=reason))
        if self.rescaling.is_wanted and self.collector.is_empty:
            self.rescaling.begin()

    # ---- what there is to know ----

    @property
    def is_finished(self) -> bool:
        """Whether all the rounds that were asked for are done."""
        count = self._rounds.count
        return bool(count) and self._versions.current.round >= count

    @property
    def phase(self) -> str:
        """What the announcement asks of the nodes."""
        if self.is_finished or self._is_resting:
            return "idle"
        return "paused" if self.is_paused else "scaling" if self.rescaling.is_open else "open"

    @property
    def open_round(self) -> OpenRound:
        return self.collector.open_round

    @property
    def accepted(self) -> int:
        """Updates, since start."""
        return self._accepted + self.collector.accepted

    # ---- events ----

    def announce(self) -> None:
        """Publish the open round, now and every half a minute; its message expires with its deadline."""
        announcement = self.collector.announcement(
            generation=self._store.generation, number=self._versions.current.number, phase=self.phase
        )
        announcement = msgspec.structs.replace(
            announcement, quarantine=self._quarantine(), released=self._store.stages.released
        )
        self._publisher.announce(announcement, expiry_s=announcement.deadline_s if self.phase == "open" else None)
        if self.phase == "open":
            self._loop.at("announce again", ANNOUNCE_EVERY_S, self.announce)
        self._watch_the_clock()

    def pause(self, *, paused: bool) -> None:
        """Stop or go on; the open round gets its whole deadline again."""
        self.is_paused = paused
        self.collector.restart_clock()
        self.announce()

    def tick(self) -> None:
        """Time has passed, or who lives has changed."""
        self.rescaling.who_lives_changed()
        if self.phase not in ("open", "idle") or self._is_resting:
            return
        try:
            self.collector.tick()
        finally:
            self.follow_up()
            self._watch_the_clock()

    def hear_status(self, node: str, status: NodeStatus | None) -> None:
        """A trainer's word: how much it has received, and whether its readings drift."""
        rules = self._trigger.rules
        if status is None or status.state in ("lost", "stopped"):
            self._drifting.discard(node)
            self._happened(Gone(node))
            return
        (self._drifting.add if (status.drift or 0.0) > STRONG else self._drifting.discard)(node)
        self._rescale_on_drift()
        if rules.readings:
            self._happened(Received(node, status.readings.received))
        if rules.drifted_nodes:
            self._happened(Drifted(node, is_drifted=node in self._drifting))

    def _rescale_on_drift(self) -> None:
        """Most nodes' readings are not what they were: neither is what they were scaled by."""
        live = self._roster.live_trainers()
        if self._settings.scaling.on_drift and 2 * len(self._drifting & live) > len(live):
            self._drifting.clear()  # what they say next is of the new scaler
            self.rescale()

    def let_in(self) -> None:
        """An operator says that what comes now is normal: nodes that wait let it into their windows."""
        stages = self._store.stages
        self._store.write_stages(msgspec.structs.replace(stages, released=stages.released + 1))
        self.announce()

    def ask_for_round(self) -> None:
        """By an operator's word: when the present round has ended, or now."""
        self._happened(Commanded())

    def commit_soon(self) -> None:
        """Store what is right, together with what comes right after it."""
        if not self.collector.uncommitted:
            return
        if not self._loop.backlog:
            self.collector.commit()
        elif not self._loop.pending("commit"):
            self._loop.at("commit", COMMIT_WITHIN_S, self._commit)

    def follow_up(self) -> None:
        """After every event of the round: count, and act when it is over."""
        for reason in self.collector.refusals:
            self._on_refusal(reason)
        self.collector.refusals.clear()
        try:
            if self.collector.is_renewed:
                self.collector.is_renewed = False
                self.announce()
            while self.collector.outcome is not None and not self.is_finished:
                self._end_round()
        except OSError as error:  # a full disk, as a rule: nothing is lost, and all of it can be done again
            log.exception("round %d cannot be closed; trying again", self.open_round.round)
            self._on_error(error)
            self._loop.at("again", AGAIN_AFTER_S, self.follow_up)

    def rescale(self) -> None:
        """Agree on a new scaler: now, or when the updates that are here already have been merged."""
        self.rescaling.ask()
        if not self.collector.has_begun and not self.rescaling.is_open:
            self.rescaling.begin()
            self.announce()

    def close(self) -> None:
        self.collector.close()

    # ---- the clock ----

    @property
    def _is_resting(self) -> bool:
        """Between two rounds."""
        return not self._trigger.is_running

    def _decide(self, event: Event) -> str:
        """Why a round begins; empty when none does."""
        now = time.monotonic()
        self._trigger, begun = triggers.decide(self._trigger, event, now)
        if begun is not None:
            self._loop.cancel("trigger")
        elif self._trigger.wake_at_s is not None and not self.is_finished:
            self._loop.at("trigger", self._trigger.wake_at_s - now, lambda: self._happened(Tick()))
        return begun.reason if begun else ""

    def _happened(self, event: Event) -> None:
        if reason := self._decide(event):
            self.collector.open_round = msgspec.structs.replace(self.open_round, reason=reason)
            self._store.note_open_round(self.open_round)
            self.collector.restart_clock()
            self.announce()
            self.tick()

    def _watch_the_clock(self) -> None:
        if self.phase == "open":
            self._loop.at("round", self.collector.next_tick_s(), self.tick)

    def _commit(self) -> None:
        try:
            self.collector.commit()
        finally:
            self.follow_up()

    # ---- one round after another ----

    def _open(self, open_round: OpenRound) -> None:
        """Make a round attempt durable and current."""
        self.collector = Collector(
            open_round,
            store=self._store,
            versions=self._versions,
            settings=self._settings,
            training=training(self._settings.training, round_number=open_round.round),
            roster=self._roster,
            send=self._send,
        )

    def _end_round(self) -> None:
        """Merge or abandon, and announce what comes next."""
        collector = self.collector
        if collector.is_empty and not self._roster.live_trainers():
            collector.close()
            self._open(collector.open_round)  # nobody there at all: wait on
            self.announce()
            return
        report = msgspec.structs.replace(collector.report(), drifting=tuple(sorted(self._drifting)[:MOST_NAMED]))
        if report.outcome == "merged":
            report = self._merge_or_abandon(report)
        self._store.append_history(report)
        collector.close()
        if report.outcome == "merged" and self._should_return():
            self._return_to_best()
        following = self._following(collector.open_round, report)
        if report.outcome == "merged" or self._rounds.continuous:
            self._loop.cancel("round")
            following = msgspec.structs.replace(following, reason=self._decide(Ended()))
        self._open(following)
        self._accepted += collector.accepted
        if self.rescaling.is_wanted:
            self.rescaling.begin()
        self._publish_round()
        self._on_report(report)

    def _take_scaler(self, scaler: Scaler, nodes: dict[str, int]) -> None:
        """A new lineage, whose first round is another attempt at the one that waited."""
        try:
            self._before_version()
            self._versions.rescale(scaler)
        except OSError as error:  # asked for again at the next deadline
            self._on_error(error)
            self.rescaling.begin()
            return
        self._on_version()
        report = self._rescaled(nodes)
        self._store.append_history(report)
        self.collector.close()
        waited = self.collector.open_round  # nodes may have taken part in this attempt already
        self._open(msgspec.structs.replace(self._next_round(), attempt=waited.attempt + 1, reason=waited.reason))
        self._publish_round()
        self._on_report(report)

    def _return_to_best(self) -> None:
        """Too many versions in a row were worse than the best: train on from that one."""
        self._before_version()
        self._versions.return_to_best()
        self._on_version()
        self._store.append_history(self._report_of_newest("returned"))
        log.warning("version %d: training goes on from the best one", self._versions.current.number)

    def _rescaled(self, nodes: dict[str, int]) -> RoundReport:
        return self._report_of_newest(
            "rescaled",
            asked=len(self._roster.live_trainers()),
            participants=tuple(Participant(node=n, examples=max(k, 1)) for n, k in sorted(nodes.items())),
        )

    def _report_of_newest(self, outcome: Literal["merged", "rescaled", "returned"], **rest: Any) -> RoundReport:
        """What its manifest says of it."""
        current = self._versions.current
        return RoundReport(
            round=current.round,
            attempt=self._next_attempt(current.round),
            outcome=outcome,
            version=current.version,
            number=current.number,
            metrics=current.metrics,
            base=current.base,
            lineage=current.lineage,
            finished=now_text(),
            **rest,
        )

    def _next_attempt(self, round_number: int) -> int:
        attempts = [r.attempt for r in self._store.history(self._rounds.history or 1) if r.round == round_number]
        return 1 + max(attempts, default=0)

    def _merge_or_abandon(self, report: RoundReport) -> RoundReport:
        """A strategy that cannot merge what came, or fails, must not stop the federation: the round is tried again."""
        try:
            return self._merge(report)
        except (*FATAL, OSError):
            raise
        except Exception as error:  # a strategy of the operator's own may raise anything
            log.exception("round %d cannot be merged by %s", report.round, self.collector.strategy)
            self._on_error(error)
            return msgspec.structs.replace(report, outcome="abandoned")

    def _merge(self, report: RoundReport) -> RoundReport:
        if self._versions.current.round < report.round:  # else it was, and something failed afterwards
            self._before_version()
            self._versions.merge(
                self.collector.merged(),
                round_number=report.round,
                metrics=report.metrics,
                strategy=self.collector.strategy,
                updates=self.collector.accepted_updates(),
            )
        current = self._versions.current
        self._on_version()
        return msgspec.structs.replace(report, version=current.version, number=current.number)

    def _publish_round(self) -> None:
        self._publisher.publish(self._versions.published())
        self.announce()
        self._publisher.clear_all_but(self._versions.reachable())

    def _complete_history(self) -> None:
        """A round that was merged just before a crash left no report: its version says the most of it."""
        current = self._versions.current
        reports = self._store.history(self._rounds.history or 1)
        if current.number and not any(r.version == current.version for r in reports):
            outcome: Literal["merged", "rescaled"] = "rescaled" if self._versions.opens_lineage else "merged"
            self._store.append_history(self._report_of_newest(outcome))

    def _following(self, before: OpenRound, report: RoundReport) -> OpenRound:
        """After a merge the next round; after an abandoned attempt the same one, with more nodes asked."""
        if report.outcome == "merged":
            return self._next_round()
        fraction = min(1.0, before.fraction * self._rounds.fraction_growth)
        return OpenRound(round=before.round, attempt=before.attempt + 1, fraction=fraction, reason=before.reason)

    def _next_round(self) -> OpenRound:
        return OpenRound(round=self._versions.current.round + 1, fraction=self._fraction())

    def _fraction(self) -> float:
        """Of the nodes that are asked: more than are needed, when over-selection says so."""
        live, wanted = len(self._roster.live_trainers()), self._rounds.target_updates * self._rounds.over_selection
        if self._rounds.over_selection > 1.0 and 0 < wanted < live:
            return wanted / live
        return self._rounds.fraction
