"""The demonstration from beginning to end: prepare, run, compare, report."""

import logging
import os
import secrets
import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from dl_mqtt_clients.aggregation.files import only_one
from dl_mqtt_clients.cli.demo_plan import Plan, child_environment, make_plan
from dl_mqtt_clients.cli.demo_run import DemoRun
from dl_mqtt_clients.cli.demo_view import view_for
from dl_mqtt_clients.cli.demo_wishes import Interrupts, Wishes
from dl_mqtt_clients.cli.demo_work import Outcome, compare
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

_OURS: Final = ("state", "logs", "model", "updated_model")  # folders made anew by each demonstration


def run_demo(wishes: Wishes, interrupts: Interrupts) -> int:
    """The exit code: 0 when all rounds were merged and reported, 1 when something failed, 128 + n after a signal."""
    console = Console(stderr=wishes.json, highlight=False)
    with ExitStack() as stack:
        wishes.folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(only_one(wishes.folder))
        _clear(wishes.folder)
        broker = None if wishes.broker else stack.enter_context(EmbeddedBroker())
        suffix = secrets.token_hex(2) if broker is None else ""
        url = broker.url if broker else str(wishes.broker)
        plan = make_plan(wishes, broker=url, suffix=suffix, environ=os.environ)
        _log_to(plan.logs / "demo.log")
        run = DemoRun(plan, view_for(console), title="fedlearn demo", environ=child_environment(plan.settings, os.environ), broker=broker)
        interrupts.run(run)
        outcome = compare(run.base, plan.settings) if run.base else None
    print(run.timings)
    if run.failure: print(run.failure)
    if outcome:
        for m in outcome.models: print(m.name, m.auroc, m.average_precision, m.loss)
        for m in outcome.by_version: print(m.name, m.auroc, m.average_precision, m.loss)
    return 0


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
