"""The newest version on its way into production: what the nodes find with it is added up, and then it is judged.

It is promoted when it is as good as the best one promoted in its lineage (`aggregation.promotion`), or else stays
`global`: nodes train on it, no predictor sees it. After a rollback all stay `global`, until an operator promotes one.
"""

import logging
from collections.abc import Callable
from typing import Final

import msgspec

from dl_mqtt_clients.aggregation.evaluation import Evaluation
from dl_mqtt_clients.aggregation.promotion import Verdict, decide
from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import MessageError, ModelError
from dl_mqtt_clients.services.canary import compare, is_canary
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.services.production import Production
from dl_mqtt_clients.services.roster import Roster
from dl_mqtt_clients.services.versions import Versions
from dl_mqtt_clients.wire.messages import Metrics, NodeStatus, RoundReport, Statistics

log = logging.getLogger(__name__)

MOST_STATISTICS: Final = 4096  # nodes whose statistics are kept though no status of theirs was heard
LATE_S: Final = 0.3  # statistics that come after the promotion are looked at together
RECENT: Final = 16  # rounds among whose reports a version's is looked for


class Promoting:
    """`on_judged()` runs when something is known that was not: what is in production, or what became of a version."""

    def __init__(
        self,
        *,
        loop: Loop,
        store: Store,
        versions: Versions,
        settings: Settings,
        roster: Roster,
        on_judged: Callable[[], None],
    ) -> None:
        self.rejected = 0  # versions in a row
        self._loop, self._store, self._versions, self._roster = loop, store, versions, roster
        self._settings, self._on_judged = settings, on_judged
        self._production = Production(store)
        self._measuring: set[str] = set()  # predictors whose streams have labels
        self._verdict: Verdict | None = None  # on the newest version
        self._quarantine: float | None = None
        self._predictors: dict[str, NodeStatus] = {}
        self._becomes_best = False  # the canary, when it is promoted
        self._evaluation = self._new_evaluation()

    def begin(self) -> None:
        """The newest version is another one: ask what the nodes find with it."""
        self.quarantine()  # as it was for the version before, until the nodes have scored this one
        self._evaluation, self._verdict = self._new_evaluation(), None
        if self._versions.is_best_again:
            self.rejected = 0
        self._loop.at("judge", self._settings.rounds.statistics_deadline_s, self.finish)

    def resume(self) -> None:
        """After a start: a former process may have been killed before it judged."""
        if not self._production.is_newest and self._versions.current.number:
            self._loop.at("judge", self._settings.rounds.statistics_deadline_s, self.finish)
        self._forget_canary()  # of a former process: nobody has compared it
        report = self._report_of(self._versions.current.version)
        if report is not None and report.promotion.startswith("promote") and not self._production.is_newest:
            self._verdict = Verdict("promote", "before the rollback")  # which a restart does not undo

    def hear_predictor(self, node: str, status: NodeStatus | None) -> None:
        """What it has scored, with which version."""
        if status is None or status.state in ("lost", "stopped"):
            self._predictors.pop(node, None)
        else:
            self._predictors[node] = status

    def finish(self) -> None:
        """No more is waited for: judge the newest version by what is known."""
        if self._verdict is None and not self._production.is_newest and self._versions.current.number:
            self._judge()

    @property
    def is_done(self) -> bool:
        """Whether the newest version is judged, and nobody who measured earlier ones may still tell of it."""
        if (not self._production.is_newest and self._verdict is None) or self._production.canary is not None:
            return False
        expected = len(self._measuring & self._roster.live_nodes())
        complete = self._evaluation.nodes("predictor") >= expected
        return not self._loop.pending("late statistics") and (complete or not self._loop.pending("measured"))

    def quarantine(self) -> float | None:
        """Score above which readings are kept out of training windows, as far as it is known."""
        quantile = self._settings.quarantine.quantile
        if quantile is None:
            return None
        self._quarantine = self._evaluation.threshold(quantile) or self._quarantine
        return self._quarantine

    def should_return(self) -> bool:
        """Whether so many versions in a row were rejected that training should go on from the best one."""
        after = self._settings.promotion.return_after
        return bool(after) and self.rejected >= after and self._versions.current.best is not None

    def hear(self, node: str, role: str, statistics: Statistics) -> None:
        """What a node found. MessageError when the histograms are not ours."""
        if statistics.version != self._evaluation.version or not self._may_count(node):
            return
        try:
            self._evaluation.add(node, role, statistics)
        except ValueError as error:
            raise MessageError(str(error)) from error
        if role == "predictor":
            self._measuring.add(node)
        if self._production.is_newest or self._verdict is not None:
            self._loop.at("late statistics", LATE_S, self._judge)
        elif self._has_heard_all():
            self._judge()

    @property
    def on_hold(self) -> bool:
        """Whether nothing is promoted but by an operator's word."""
        return self._production.on_hold

    def promote(self, version: str | None = None) -> str:
        """By an operator's word, whatever was found: this version, or the newest; a hold ends. What was done, in words.

        ModelError, and nothing changed, when it is not kept.
        """
        if version not in (None, self._versions.current.version):
            return self._restore(version, hold=False)
        self._forget_canary()
        self._production.end_hold()
        self._verdict = None
        self._apply(Verdict("promote", "by an operator's word", becomes_best=True), by_operator=True)
        return f"version {self._versions.current.number} is in production"

    def roll_back(self, version: str | None, *, hold: bool = True) -> str:
        """Put an earlier version into production: this one, or the one before the present.

        It stays there until an operator promotes one, unless `hold` is false. ModelError when it is not kept.
        """
        return self._restore(self._before_production() if version is None else version, hold=hold)

    def _restore(self, version: str, *, hold: bool) -> str:
        production = self._production.restore(version, hold=hold)
        self._loop.cancel("canary")
        self._on_judged()
        stays = ", and stays there until an operator promotes one" if hold else ""
        return f"version {production.number} is in production{stays}"

    def _before_production(self) -> str:
        production = self._production.now
        promoted = [r for r in self._store.history(1000) if r.promotion.startswith("promote") and r.version]
        earlier = [r.version for r in promoted if production is None or r.number < production.number]
        kept = [v for v in earlier if v is not None and self._store.version(v) is not None]
        if not kept:
            raise ModelError("versions: expected one that was in production before. Received: none is kept")
        return kept[-1]

    def _new_evaluation(self) -> Evaluation:
        return Evaluation(self._versions.current.version, best=self._versions.current.best)

    def _has_heard_all(self) -> bool:
        """Whether no more statistics of the newest version can be waited for; the base waits for readings as well."""
        known = self._versions.current.number > 0 or self._evaluation.threshold(0.5) is not None
        return known and self._evaluation.nodes("trainer") >= max(len(self._roster.live_trainers()), 1)

    def _may_count(self, node: str) -> bool:
        """Statistics are kept until the next version, kilobytes a node: not those of any number of strangers."""
        many = self._evaluation.nodes("trainer") + self._evaluation.nodes("predictor") >= MOST_STATISTICS
        return self._roster.is_known(node) and (not many or node in self._roster.live_nodes())

    # ---- judging ----

    def _judge(self) -> None:
        canary = self._production.canary
        if canary is not None and canary.version == self._versions.current.version:
            return  # what its predictors find decides
        if self._verdict is None or self._verdict.decision == "wait":
            self._apply(self._found())
        elif self._production.is_newest:
            self._apply(self._verdict)  # with the threshold and the metrics as they are known now

    def _found(self) -> Verdict:
        """What the gate says."""
        rules = self._settings.promotion
        if self._production.canary is not None:
            return Verdict("wait", f"version {self._production.canary.number} is with the canaries")
        if not rules.gate:
            return Verdict("promote", "the gate is open", becomes_best=True)
        if self._versions.opens_lineage and self._production.now and self._production.now.number:
            return Verdict("wait", "a new scaler, and nobody has trained with it yet")
        candidate, best = self._evaluation.qualities()
        return decide(
            candidate,
            best,
            tolerance=rules.tolerance,
            auroc_tolerance=rules.auroc_tolerance,
            max_noise=rules.max_noise,
            min_nodes=rules.min_nodes,
        )

    def _apply(self, verdict: Verdict, *, by_operator: bool = False) -> None:
        """Put the newest version into production, with the threshold its nodes' statistics give; or keep it back."""
        self._loop.cancel("judge")
        threshold = self._threshold()
        metrics = self._evaluation.metrics(self._versions.current.metrics, threshold=threshold)
        if verdict.decision == "promote" and not by_operator and not self._production.is_newest:
            if self.on_hold:
                verdict = self._held_back(verdict)
            elif self._needs_canary():
                verdict = self._begin_canary(verdict, threshold=threshold, metrics=metrics)
        is_news = self._conclude(verdict)
        changed = verdict.decision == "promote" and self._production.promote(
            threshold=threshold, metrics=metrics, becomes_best=verdict.becomes_best
        )
        if is_news or changed:
            self._record(self._versions.current.version, verdict, metrics)
            self._on_judged()

    def _conclude(self, verdict: Verdict) -> bool:
        """Keep it; whether it is another than before, also in its words: a canary's begin with "wait" as well."""
        before, self._verdict = self._verdict, verdict
        if before is None:
            self._loop.at("measured", self._settings.rounds.statistics_deadline_s, lambda: None)
        elif (before.decision, before.reason) == (verdict.decision, verdict.reason):
            return False
        self._note(self._versions.current.number, verdict)
        return True

    def _note(self, number: int, verdict: Verdict) -> None:
        if verdict.decision != "wait":
            self.rejected = self.rejected + 1 if verdict.decision == "reject" else 0
        log.info("version %d: %s: %s", number, verdict.decision, verdict.reason)

    def _forget_canary(self) -> None:
        """Its predictors go back to what is in production."""
        self._loop.cancel("canary")
        if self._production.canary is not None:
            self._production.end_canary(promote=False)

    def _held_back(self, verdict: Verdict) -> Verdict:
        """It would be promoted: no rejected one."""
        self.rejected = 0
        return Verdict("wait", f"on hold after a rollback; {verdict.reason}")

    def _needs_canary(self) -> bool:
        """Whether there are predictors on both sides of the draw."""
        share, version = self._settings.promotion.canary, self._versions.current.version
        drawn = {is_canary(node, version, share) for node in self._predictors}
        return share > 0 and self._production.now is not None and len(drawn) == 2

    def _begin_canary(self, verdict: Verdict, *, threshold: float | None, metrics: Metrics) -> Verdict:
        rules = self._settings.promotion
        self._production.begin_canary(rules.canary, threshold=threshold, metrics=metrics)
        self._becomes_best = verdict.becomes_best
        self._loop.at("canary", rules.canary_s, self._end_canary)
        return Verdict("wait", f"canary for {rules.canary_s:g} s; {verdict.reason}")

    def _end_canary(self) -> None:
        canary = self._production.canary
        if canary is None:
            return
        good, why = compare(canary, self._predictors.values(), tolerance=self._settings.promotion.canary_tolerance)
        self._production.end_canary(promote=good, becomes_best=self._becomes_best)
        verdict = Verdict("promote" if good else "reject", why)
        self._record(canary.version, verdict, canary.metrics)
        if canary.version == self._versions.current.version:
            self._conclude(verdict)
        else:
            self._note(canary.number, verdict)
            if self._verdict is not None:
                self._judge()  # the newest one, which had to wait
        self._on_judged()

    def _threshold(self) -> float | None:
        if self._settings.threshold.value is not None:
            return self._settings.threshold.value
        return self._evaluation.threshold(self._settings.threshold.quantile)

    def _report_of(self, version: str) -> RoundReport | None:
        return next((r for r in reversed(self._store.history(RECENT)) if r.version == version), None)

    def _record(self, version: str, verdict: Verdict, metrics: Metrics) -> None:
        """In the report of the round that made the version."""
        report = self._report_of(version)
        if report is None:
            return
        production = self._production.now
        promoted = production is not None and production.version == version
        report = msgspec.structs.replace(
            report,
            metrics=metrics,
            threshold=production.threshold if promoted and production else None,
            promotion=f"{verdict.decision}: {verdict.reason}"[:2000],
        )
        self._store.append_history(report)
