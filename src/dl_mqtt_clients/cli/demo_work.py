"""The demonstration's own learning: the base model before, the comparison after. Imports Keras when called."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from dl_mqtt_clients.aggregation.store import Store
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.dashboard.comparison import Measured, measure, train_centrally
from dl_mqtt_clients.dashboard.report import Results
from dl_mqtt_clients.data.dataset import Dataset, Splits
from dl_mqtt_clients.data.sources import load_configured
from dl_mqtt_clients.services.base_model import make_base_model, save_base_model, training_rows
from dl_mqtt_clients.services.from_settings import training
from dl_mqtt_clients.wire.messages import Manifest, RoundReport

if TYPE_CHECKING:
    from dl_mqtt_clients.cli.demo_plan import Plan
    from dl_mqtt_clients.learning.model import FederatedModel


DATA_NAMES: Final = {
    "synthetic": "synthetic process events",
    "beth": "BETH",
    "nsl_kdd": "NSL-KDD",
    "table": "a table",
    "arrays": "arrays",
}


@dataclass(frozen=True, slots=True)
class Base:
    """Data, and the model that all begin with, which has not learnt anything."""

    splits: Splits
    model: "FederatedModel"
    weights: Sequence[np.ndarray]
    measured: Measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the rounds came to."""

    rounds: tuple[RoundReport, ...]  # every attempt, oldest first
    threshold: float | None
    models: tuple[Measured, ...]  # base, federated, central
    by_version: dict[int, Measured]  # the federated model, by the version's number
    test: Dataset

    def results(self, plan: "Plan", *, seconds: float) -> Results:
        """As the report takes it."""
        many = f"{len(plan.trainers)} trainers learnt, each from a stream of its own"
        merged = sum(report.outcome == "merged" for report in self.rounds)
        rounds = f"{merged} rounds merged what was learnt"
        watched = (
            f"; {len(plan.predictors)} predictors scored the test part with the model in production"
            if plan.predictors
            else ""
        )
        return Results(
            title=f"Federated learning on {DATA_NAMES[plan.settings.data.source]}",
            lead=f"{many}{watched}. {rounds}; no reading went to the manager.",
            settings=plan.settings,
            rounds=self.rounds,
            threshold=self.threshold,
            models=self.models,
            by_version=self.by_version,
            labels=self.test.y,
            seconds=seconds,
        )


def prepare(settings: Settings) -> Base:
    """Read the data, build and save the base model, and see what it is worth."""
    splits = load_configured(settings.data)
    made = make_base_model(settings, splits)
    save_base_model(settings, made)
    weights = made.model.get_weights()
    return Base(splits, made.model, weights, measure("base model", made.model, weights, splits.test))


def compare(base: Base, settings: Settings) -> Outcome | None:
    """The federation's versions and a central model beside each other; None when no round was merged."""
    store = Store(Path(settings.node.state_dir) / "manager")
    reports = tuple(store.history(settings.rounds.history))
    merged = [report for report in reports if report.outcome == "merged"]
    versions = {m.number: _measure_version(base, store, m) for m in store.versions() if m.number}
    if not merged or not versions:
        return None
    rows = training_rows(settings, base.splits.train)
    work = training(settings.training)
    central = train_centrally(base.model, base.weights, rows, rounds=merged, training=work, seed=0)
    test, production = base.splits.test, store.stages.production
    in_use = production.number if production and production.number in versions else max(versions)
    return Outcome(
        rounds=reports,
        threshold=production.threshold if production else None,
        models=(
            base.measured,
            replace(versions[in_use], name="federated"),
            measure("trained centrally", base.model, central, test),
        ),
        by_version=versions,
        test=test,
    )


def _measure_version(base: Base, store: Store, manifest: Manifest) -> Measured:
    return measure(f"version {manifest.number}", base.model, store.weights(manifest), base.splits.test)
