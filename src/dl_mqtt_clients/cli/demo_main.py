"""The demonstration from beginning to end: prepare, run, compare, report."""

import logging
import os
import secrets
import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.cli.demo_broker import check_broker, forget_federation
from dl_mqtt_clients.cli.demo_end import Ending, show_end
from dl_mqtt_clients.cli.demo_plan import child_environment, make_plan
from dl_mqtt_clients.cli.demo_run import DemoRun
from dl_mqtt_clients.cli.demo_view import view_for
from dl_mqtt_clients.cli.demo_wishes import Interrupts, Wishes
from dl_mqtt_clients.cli.demo_work import compare
from dl_mqtt_clients.errors import StateError
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

_MARK: Final = ".fedlearn-demo"  # says that the folder is a demonstration's own
_OURS: Final = ("state", "logs", "model", "updated_model")  # folders made anew by each demonstration

log = logging.getLogger(__name__)


def run_demo(wishes: Wishes, interrupts: Interrupts) -> int:
    """The exit code: 0 when all rounds were merged and reported, 1 when something failed, 128 + n after signal n."""
    began = time.monotonic()
    console = Console(stderr=wishes.json, highlight=False)
    try:
        with ExitStack() as stack:
            _take(wishes.folder)
            stack.enter_context(only_one(wishes.folder))
            _clear(wishes.folder)
            run = _run(wishes, interrupts, console, stack)
            ending = _compare(run, console, began)
        show_end(ending, interrupts, console, json=wishes.json)
    except KeyboardInterrupt:
        console.print("Ended at once.", style="yellow")
        return interrupts.exit_code
    return 1 if ending.failure else 0 if ending.completed else interrupts.exit_code


def _run(wishes: Wishes, interrupts: Interrupts, console: Console, stack: ExitStack) -> DemoRun:
    broker = None if wishes.broker else stack.enter_context(EmbeddedBroker())
    plan = make_plan(
        wishes,
        broker=broker.url if broker else str(wishes.broker),
        suffix="" if broker else secrets.token_hex(2),  # others may be on that broker
        environ=os.environ,
    )
    _log_to(plan.logs / "demo.log")
    if broker is None:
        check_broker(plan.settings)
    environ = child_environment(plan.settings, os.environ)
    run = DemoRun(plan, view_for(console), title="fedlearn demo", environ=environ, broker=broker)
    try:
        interrupts.run(run)
    finally:
        if broker is None:
            forget_federation(plan.settings)
    return run


def _compare(run: DemoRun, console: Console, began: float) -> Ending:
    """Results and report of the rounds there were, also when something failed later."""
    ending = Ending(plan=run.plan, failure=run.failure, completed=run.completed, timings=dict(run.timings), began=began)
    if run.base is None or not run.fleet.merged:
        return ending
    console.print("Comparing with central training, writing the report …", style="dim")
    outcome = compare(run.base, run.plan.settings)
    return ending.with_outcome(outcome) if outcome else ending


def _take(folder: Path) -> None:
    """StateError when there are files in it that are not a demonstration's: they might be cleared away."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _MARK).exists() and any(folder.iterdir()):
        raise StateError(
            f"--folder {folder}: expected an empty folder, or one of an earlier demo. Received: other files"
        )
    (folder / _MARK).touch()


def _clear(folder: Path) -> None:
    for name in _OURS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "logs").mkdir()


def _log_to(path: Path) -> None:
    """What this process logs goes beside the children's logs, not into the picture."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
