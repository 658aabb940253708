"""The trainer: fits the announced version on the newest window of its own stream, and offers the change.

    announcement + base version + enough readings ─► fit ─► store ─► offer ─► (grant ─► chunks …) ─► receipt

While it fits it looks into its inbox after every batch: it reads on, answers, and stops when the round is over.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec
import numpy as np

from dl_mqtt_clients.aggregation.cohort import fit_seed
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.services.clean_window import CleanWindow
from dl_mqtt_clients.services.describing import Describing
from dl_mqtt_clients.services.drift_watch import DriftWatch
from dl_mqtt_clients.services.evaluating import Evaluating
from dl_mqtt_clients.services.fetch import Blobs
from dl_mqtt_clients.services.from_settings import has_controls, training, with_brokers
from dl_mqtt_clients.services.held_readings import HeldReadings, ToLearn
from dl_mqtt_clients.services.loop import FATAL
from dl_mqtt_clients.services.node import Node
from dl_mqtt_clients.services.offering import Offering
from dl_mqtt_clients.services.outbox import Outbox
from dl_mqtt_clients.services.packing import own_control, pack
from dl_mqtt_clients.services.runtime import KerasRuntime
from dl_mqtt_clients.services.stream import ReadingStream
from dl_mqtt_clients.services.taking_part import still_counts, why_not
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.controls import control_positions, with_controls
from dl_mqtt_clients.wire.feature_sums import FeatureReport
from dl_mqtt_clients.wire.messages import Manifest, NodeStatus, Readings, Reply, Round, Statistics, decode
from dl_mqtt_clients.wire.topics import Role, Stage
from dl_mqtt_clients.wire.weights import decode as decode_weights
from dl_mqtt_clients.wire.weights import join

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.controls import Controls
    from dl_mqtt_clients.learning.fit import FitResult
    from dl_mqtt_clients.learning.model import FederatedModel

log = logging.getLogger(__name__)

GATHER_S: Final = 0.05  # readings are taken from the stream so often at most
DRIFT_EVERY_S: Final = 30.0


class Trainer(Node["FederatedModel"]):
    """Learns from its stream. With `readings` (and `labels`) it learns from these arrays instead of a stream."""

    role: ClassVar[Role] = "trainer"
    stages: ClassVar[Sequence[Stage]] = ("global",)
    blobs: ClassVar[Sequence[str]] = ("weights", "frozen", "best", "controls")

    def __init__(
        self,
        node_id: str | None = None,
        *,
        settings: Settings | None = None,
        broker: str | None = None,
        data_broker: str | None = None,
        readings: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> None:
        settings = with_brokers(settings, broker, data_broker)
        settings = settings.replace(**{"node.id": node_id}) if node_id else settings
        super().__init__(settings, KerasRuntime(settings))
        self._held = HeldReadings(
            self.settings, folder=self.folder, readings=readings, labels=labels, on_problem=self._note_problem
        )
        self._announced: Round | None = None
        self._weights: Sequence[np.ndarray] = ()
        self._control: Sequence[np.ndarray] | None = None  # SCAFFOLD's c, of all nodes
        self._best: Sequence[np.ndarray] | None = None  # of the best version before this one
        self._fitting = False
        self._progress = 0.0
        self._loss: float | None = None
        self._lacks = ""
        self._evaluating = Evaluating(self._send_statistics)
        self._describing = Describing(self.loop, send=self._send_features, again=self._consider)
        self._clean = CleanWindow(self.settings.quarantine)
        self._drift = DriftWatch()
        self._outbox = Outbox(self.folder)
        self._offering = Offering(
            self._outbox,
            loop=self.loop,
            link=self.link,
            topics=self.topics,
            node_id=self.node_id,
            on_refused=self._note_refusal,
            on_dropped=self._offer_dropped,
            on_offered=self._offered,
        )
        if readings is None:
            self.stream = self._held.stream = ReadingStream(
                self.loop,
                self.settings,
                role=self.role,
                on_arrival=self._arrived,
                on_problem=self.status.changed,
            )

    # ---- life ----

    def _start(self) -> None:
        super()._start()
        self._outbox.load()
        self.loop.at("drift", DRIFT_EVERY_S, self._look_for_drift)

    def _finish(self) -> None:
        with ExitStack() as ends:
            ends.callback(super()._finish)
            self._held.close()

    def _connected(self) -> None:
        super()._connected()
        self._offering.connected()
        self._consider()

    def _subscriptions(self) -> Sequence[str]:
        return (self.topics.round, self.topics.reply(self.node_id))

    def _message(self, delivery: Delivery) -> None:
        if delivery.topic == self.topics.reply(self.node_id):
            self._offering.replied(decode(delivery.payload, Reply))
        elif delivery.topic == self.topics.round:
            self._heard(decode(delivery.payload, Round) if delivery.payload else None)

    # ---- readings ----

    def _arrived(self) -> None:
        if not self.loop.pending("gather"):
            self.loop.at("gather", GATHER_S, self._gather)

    def _gather(self) -> None:
        """Move what came into the window, so much at a time that others get their turn."""
        if self._held.take_in(4096):
            self.status.changed()
        if self._held.window is not None and len(self.stream or ()):
            self.loop.at("gather", 0.0, self._gather)
        self._consider()

    # ---- rounds ----

    def _own_way(self, announced: Round | None) -> Round | None:
        """The announcement with what this node's operator lets it do in its own way."""
        names = self.settings.node.overrides
        if announced is None or not names:
            return announced
        own = training(self.settings.training)
        changed = msgspec.structs.replace(announced.training, **{name: getattr(own, name) for name in names})
        return msgspec.structs.replace(announced, training=changed)

    def _heard(self, announced: Round | None) -> None:
        self._announced = self._own_way(announced)
        if announced is not None:
            self._clean.hear(announced.released)
        self._offering.heard(self._announced)
        self._describing.heard()
        self._consider()

    def _prepare(self, manifest: Manifest, model: "FederatedModel", weights: Sequence[np.ndarray]) -> None:  # noqa: ARG002
        self._held.check(model.n_features)

    def _take(self, manifest: Manifest, blobs: Blobs) -> None:
        super()._take(manifest, blobs)
        self._best = join(blobs, manifest.variables, version="best") if "best" in blobs else None
        variables = manifest.variables
        self._control = (
            decode_weights(blobs["controls"], with_controls(variables), control_positions(variables))
            if "controls" in blobs
            else None
        )

    def _adopted(self, weights: Sequence[np.ndarray]) -> None:
        self._weights = weights
        if self.model is not None:
            self._held.open(self.model.n_features)
        self._consider()

    def _published_again(self) -> None:
        self._evaluating.again()
        self._consider()

    def _consider(self) -> None:
        """Look soon whether there is something to do; not now, since a fit is long and callers have things to end."""
        self.loop.at("consider", 0.0, self._work)

    def _work(self) -> None:
        """Evaluate a new version, and begin a fit when all that is needed is there."""
        self._describe()
        if self._fitting or self._offering.is_open:
            return
        try:
            self._evaluate()  # at once: the manager waits for it to put the version into production
        except ModelError as error:
            self._note_error(error)
            self._evaluating.give_up(self.manifest.version if self.manifest else "")
        announced, manifest, model = self._announced, self.manifest, self.model
        if self._why_not() or announced is None or manifest is None or model is None:
            return
        found = self._held.to_learn(announced.training.window, manifest.task)
        if manifest.task == "anomaly" and len(found.x):
            found = found._replace(x=found.x[self._select(announced, found.x, found.used)])
        self._lacks = "" if len(found.x) else self._clean.drift or "no readings yet that can be learnt from"
        if self._lacks:
            return
        self._fitting, self.state, self._progress = True, "fitting", 0.0
        self.status.changed()
        try:
            self._fit(announced, manifest, model, found)
        finally:
            self._fitting = False
            self.state = "offering" if self._offering.is_open else "waiting"
            self.status.changed()
            self._consider()

    def _select(self, announced: Round, x: np.ndarray, total: int) -> np.ndarray:
        """Which readings of the window may be learnt from."""
        chosen = self._clean.select(x, self._scores, limit=announced.quarantine, total=total)
        if (wait_s := self._clean.wait_s) is not None:
            self.loop.at("release", wait_s, self._consider)
        return chosen

    def _scores(self, x: np.ndarray) -> np.ndarray:
        """With the version held. ModelError when there is none."""
        if self.model is None or self.manifest is None:
            raise ModelError("model: expected one. Received: none yet")
        self.model.set_weights(self._outbox.own.put_into(self._weights, self.manifest))
        return self.model.scores(x)

    def _look_for_drift(self) -> None:
        """Now and then: are the readings that came since the last fit like those that were learnt from?"""
        self.loop.at("drift", DRIFT_EVERY_S, self._look_for_drift)
        new = self._new_readings()
        if self.model is None or self._fitting or self.stream is None or not new:
            return
        x = self._held.to_learn(new, self.model.task).x
        try:
            self._drift.look(x, self._scores)
        except ModelError as error:
            self._note_error(error)
        self.status.changed()

    def _describe(self) -> None:
        """Tell what our readings are like, while a scaler is being agreed on."""
        announced, manifest = self._announced, self.manifest
        if announced is None or manifest is None or manifest.version != announced.base:
            return
        if not self._describing.is_due(announced):
            return
        x = self._held.to_learn(announced.training.window, manifest.task).x
        if len(x) >= announced.training.min_readings or (self.stream is None and len(x)):
            self._describing.describe(announced, x, manifest.categorical)

    def _send_features(self, report: FeatureReport) -> bool:
        return self.link.send(self.topics.features(self.node_id), report)

    def _why_not(self) -> str:
        """What keeps us from taking part; empty when nothing does."""
        announced, manifest = self._announced, self.manifest
        return why_not(
            announced,
            node=self.node_id,
            attributes=self.settings.node.attributes,
            version=manifest.version if manifest else None,
            is_done=announced is not None and self._outbox.is_done(announced),
            held=None if self.stream is None else len(self._held),
            new=self._new_readings(),
        )

    def _new_readings(self) -> int:
        """Since the last accepted update; all of them when the window began anew."""
        total, used = self._held.total, self._outbox.used
        return total - used if used <= total else total

    def _fit(self, announced: Round, manifest: Manifest, model: "FederatedModel", found: ToLearn) -> None:
        """Fit, store the change, offer it; or say why not, and leave this round to the others."""
        from dl_mqtt_clients.learning.fit import fit  # noqa: PLC0415 - imports Keras

        base = self._outbox.own.put_into(self._weights, manifest)
        seed = fit_seed(announced.seed, round_number=announced.round, attempt=announced.attempt, node=self.node_id)

        def go_on(progress: float) -> bool:
            """After every batch: answer, read on; False when the fit has become useless."""
            self._progress = progress
            self.loop.pump()
            return not self.loop.stopping and still_counts(announced, self._announced)

        try:
            result = fit(
                model,
                base,
                found.x,
                found.y,
                training=announced.training,
                seed=seed,
                on_batch=go_on,
                controls=self._controls(announced, manifest),
                max_steps=self.settings.node.max_steps or None,
            )
            if result.stopped or not still_counts(announced, self._announced):
                return
            self._loss = result.loss
            self._drift.learnt_from(found.x)
            self._store(announced, manifest, base, result, found)
        except FATAL:
            raise
        except Exception as error:  # also what nobody thought of: it would come again with every reading
            log.exception("round %d: no update", announced.round)
            self._note_error(error)
            self._outbox.done(announced)
            return
        self._offering.offer()

    def _controls(self, announced: Round, manifest: Manifest) -> "Controls | None":
        """(c, c_i), when the objective is SCAFFOLD."""
        if not has_controls(announced.training.objective):
            return None
        own = own_control(self._outbox.own, manifest)
        return self._control or [np.zeros_like(c_i) for c_i in own], own

    def _store(
        self, announced: Round, manifest: Manifest, base: Sequence[np.ndarray], result: "FitResult", found: ToLearn
    ) -> None:
        data, own = pack(
            result,
            base,
            manifest=manifest,
            own=self._outbox.own,
            codec_name=announced.codec,
            seed=fit_seed(announced.seed, round_number=announced.round, attempt=announced.attempt, node=self.node_id),
        )
        self._outbox.store(
            data,
            announced,
            result=result,
            new_readings=self._new_readings(),
            used=found.used,
            came=found.came,
            lineage=manifest.lineage,
            own=own,
        )

    def _evaluate(self) -> None:
        manifest, model, heldout = self.manifest, self.model, self._held.heldout()
        if manifest is not None and model is not None and heldout is not None and self.link.transport.connected:
            own, best = self._outbox.own, self._best
            self._evaluating.evaluate(
                manifest,
                model,
                heldout,
                weights=own.put_into(self._weights, manifest),
                best=None if best is None else own.put_into(best, manifest),
            )

    def _send_statistics(self, statistics: Statistics) -> bool:
        return self.link.send(self.topics.statistics(self.node_id, self.role), statistics)

    # ---- what the offer came to ----

    def _offered(self) -> None:
        self.state = "offering"
        self.status.changed()

    def _note_refusal(self, reply: Reply) -> None:
        self._note_problem(f"round {reply.round}: refused: {reply.reason}")

    def _offer_dropped(self) -> None:
        self.state = "fitting" if self._fitting else "waiting"
        self.status.changed()
        self._consider()

    def _note_problem(self, text: str) -> None:
        self.last_error = text[:1000]
        self.status.changed()

    # ---- status ----

    def current_status(self) -> NodeStatus:
        manifest = self.manifest
        return NodeStatus(
            state=self.state,  # type: ignore[arg-type]
            instance=self._instance,
            version=manifest.version if manifest else None,
            number=manifest.number if manifest else 0,
            backend=self.backend,
            readings=Readings() if self.stream is None else self.stream.readings(),
            attributes=self.settings.node.attributes,
            detail=(self._clean.drift or self._why_not() or self._lacks) if self.state == "waiting" else "",
            last_error=self.last_error,
            round=self._announced.round if self._announced else 0,
            window=len(self._held),
            new_readings=self._new_readings(),
            progress=round(self._progress, 3) if self.state == "fitting" else 0.0,
            loss=self._loss,
            drift=self._drift.index,
            quarantined=self._clean.kept_out,
            accepted=self._offering.accepted,
            refused=self._offering.refused,
        )
