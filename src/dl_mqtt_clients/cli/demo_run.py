"""The demonstration while it runs: starts the processes, shows what they say, ends them."""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from dl_mqtt_clients.cli.demo_plan import Plan, node_command, test_streams, training_streams
from dl_mqtt_clients.cli.demo_view import View
from dl_mqtt_clients.cli.demo_work import DATA_NAMES, Base, prepare
from dl_mqtt_clients.cli.processes import Child, Children, died
from dl_mqtt_clients.dashboard.fleet import Fleet
from dl_mqtt_clients.dashboard.situation import Situation
from dl_mqtt_clients.dashboard.watch import Watch
from dl_mqtt_clients.errors import FederatedLearningError, TransportError
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

CONNECT_WITHIN_S: Final = 10.0
STALLED_AFTER_DEADLINES: Final = 3  # rounds' deadlines in which none was merged


class DemoRun(Service):
    """`run()` returns when all rounds are merged, when told to stop, or when something failed (`failure`).

    Every child process is gone when it returns. `base` is None when it ended before the base model was built.
    """

    def __init__(
        self, plan: Plan, view: View, *, title: str, environ: Mapping[str, str], broker: EmbeddedBroker | None
    ) -> None:
        super().__init__()
        self.plan = plan
        self.base: Base | None = None
        self.failure: Exception | None = None
        self.completed = False
        self._view = view
        self._title = title
        self._broker = broker
        self._phase = "starting"
        self._began = self._progress_at = time.monotonic()
        self.timings: dict[str, float] = {}  # phase -> seconds since the start, when it was over
        self._children = Children(plan.logs, on_exit=self._on_exit, environ=environ)
        self._learner = ThreadPoolExecutor(1, thread_name_prefix="learner")
        self._watch = Watch(self.loop, plan.settings, on_change=self._on_change)

    @property
    def fleet(self) -> Fleet:
        return self._watch.fleet

    # ---- life ----

    def _start(self) -> None:
        self._view.start()
        self._watch.start()
        self.loop.at("connect", CONNECT_WITHIN_S, self._check_connected)
        for node in self.plan.trainers:
            self._children.start(node, node_command(self.plan, "train", node))
        for node in self.plan.predictors:
            self._children.start(node, node_command(self.plan, "predict", node))
        work = self._learner.submit(prepare, self.plan.settings)
        work.add_done_callback(lambda done: self.loop.post(lambda: self._prepared(done)))
        self._set_phase("building the base model, starting the nodes")
        self._draw()

    def _finish(self) -> None:
        self._phase = "saving and ending the processes"
        self._show()
        try:
            killed = self._children.stop()
            self.timings["processes ended"] = self._elapsed_s()
            if killed and self.failure is None:
                self.failure = FederatedLearningError(f"demo: had to be killed: {', '.join(killed)}")
        finally:
            self._watch.stop()
            self._learner.shutdown(cancel_futures=True)
            self._view.stop()

    def _done(self) -> bool:
        return self.completed or self.failure is not None

    # ---- what happens ----

    def _prepared(self, work: "Future[Base]") -> None:
        try:
            self.base = work.result()
        except Exception as error:  # noqa: BLE001 - told to the user
            self.failure = error
            return
        self.timings["base model"] = self._elapsed_s()
        config = str(self.plan.configuration)
        self._children.start("manager", ["manager", "--config", config])
        self._children.start("generator", training_streams(self.plan, self.base.splits))
        if self.plan.predictors:
            self._children.start("generator-test", test_streams(self.plan, self.base.splits))
        self._set_phase("starting the manager and the streams")

    def _on_exit(self, child: Child, code: int) -> None:
        """On the child's watching thread."""
        self.loop.post(lambda: self._ended(child, code))

    def _ended(self, child: Child, code: int) -> None:
        if child.name == "manager" and code == 0 and len(self.fleet.merged) >= self.plan.rounds:
            self.timings["last round"] = self._elapsed_s()
            self.completed = True
        else:
            self.failure = died(child, code)

    def _on_change(self, before: Fleet, after: Fleet) -> None:
        if len(after.merged) > len(before.merged):
            self._progress_at = time.monotonic()
            self.timings.setdefault("first round", self._elapsed_s())
        if before.round is None and after.round is not None:
            self.timings["manager"] = self._elapsed_s()
            self._set_phase(f"learning from {DATA_NAMES[self.plan.settings.data.source]}")

    # ---- looking after it ----

    def _draw(self) -> None:
        self._show()
        self.loop.at("draw", self._view.every_s, self._draw)
        if self._broker is not None and self._broker.pid is None:
            self.failure = TransportError(f"embedded broker at {self._broker.url}: its process ended by itself")
        quiet_s = time.monotonic() - self._progress_at
        longest_s = STALLED_AFTER_DEADLINES * self.plan.settings.rounds.deadline_s
        if quiet_s > longest_s:
            self.failure = FederatedLearningError(
                f"demo: expected a round to be merged within {longest_s:.0f} s. Received: none; see {self.plan.logs}"
            )

    def _show(self) -> None:
        measured = self.base.measured if self.base else None
        situation = Situation(
            title=self._title,
            phase=self._phase,
            broker=self.plan.settings.broker.url,
            rounds=self.plan.rounds,
            elapsed_s=self._elapsed_s(),
            baseline_auroc=measured.auroc if measured else None,
            baseline_loss=measured.loss if measured else None,
            now=time.monotonic(),
        )
        self._view.show(self.fleet, situation)

    def _check_connected(self) -> None:
        if self._watch.problem:
            self.failure = TransportError(self._watch.problem)

    def _set_phase(self, phase: str) -> None:
        self._phase = phase

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began
