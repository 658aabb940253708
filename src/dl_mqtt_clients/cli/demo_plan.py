"""What the demonstration starts, with which settings. No process, no connection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from dl_mqtt_clients.cli.demo_wishes import Wishes
from dl_mqtt_clients.config import Settings, load_settings
from dl_mqtt_clients.config.render import render_settings
from dl_mqtt_clients.data.dataset import Splits
from dl_mqtt_clients.data.sources import detect
from dl_mqtt_clients.services.base_model import training_rows

# Chosen so that one sees it learn: in ten rounds of a second or two, not in one.
DEFAULTS: Final[Mapping[str, Any]] = {
    "training.epochs": 1,
    "training.batch_size": 64,
    "training.window": 1000,
    "training.min_readings": 400,
    "training.min_new_readings": 400,
    "rounds.deadline_s": 60.0,
    "rounds.pause_s": 0.8,  # predictors have the time to measure each version, also the first, when readings pile up
    "rounds.statistics_deadline_s": 3.0,
    "predictor.max_wait_ms": 50.0,
    "predictor.anomalies_per_minute": 240,  # the first versions' false alarms must not use them all up
    "generator.rate": 250.0,
}
NORMAL_S: Final = 2.0  # a predictor's stream: so long normal, then so long under attack
ANOMALOUS_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who takes part."""

    folder: Path  # everything the demonstration writes
    settings: Settings
    rounds: int
    trainers: tuple[str, ...]
    predictors: tuple[str, ...]

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @property
    def configuration(self) -> Path:
        return self.folder / "federated_learning.yaml"

    @property
    def updated_model(self) -> Path:
        return self.folder / "updated_model"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"


def names(role: str, count: int, *, suffix: str = "") -> tuple[str, ...]:
    """`trainer-1`, `trainer-2`, …; with a suffix `trainer-1-ab12`, so that demonstrations on one broker do not meet."""
    return tuple("-".join(filter(None, (role, str(number), suffix))) for number in range(1, count + 1))


def make_plan(wishes: Wishes, *, broker: str, suffix: str = "", environ: Mapping[str, str]) -> Plan:
    """Settings from defaults, environment and `--set`, and what the demonstration decides. Writes them for all."""
    trainers = names("trainer", wishes.trainers, suffix=suffix)
    changes = _decided(wishes, broker=broker, name="-".join(filter(None, ("demo", suffix))))
    plan = Plan(
        folder=wishes.folder,
        settings=Settings().replace(
            **DEFAULTS, **{"scaling.federated": wishes.trainers >= Settings().scaling.min_nodes}
        ),
        rounds=wishes.rounds,
        trainers=trainers,
        predictors=names("predictor", wishes.predictors, suffix=suffix),
    )
    _write(plan)
    overrides = [*wishes.sets, *(f"{name}={_text(value)}" for name, value in changes.items())]
    settings = load_settings(plan.configuration, overrides=overrides, environ=environ)
    way_in = ("username", "password", "password_file", "ca_file", "cert_file", "key_file")
    same = {f"data_broker.{name}": getattr(settings.broker, name) for name in way_in}
    plan = replace(plan, settings=settings.replace(**same))
    _write(plan)
    return plan


def child_environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The settings' file says everything but the password; the environment must not say something else."""
    kept = {name: value for name, value in environ.items() if not name.startswith("FEDLEARN_")}
    password = settings.broker.read_password()
    secret = {"FEDLEARN_BROKER__PASSWORD": password, "FEDLEARN_DATA_BROKER__PASSWORD": password} if password else {}
    return {**kept, **secret, "KERAS_BACKEND": settings.learning.backend}


def _write(plan: Plan) -> None:
    plan.configuration.write_text(render_settings(plan.settings), encoding="utf-8")


def _decided(wishes: Wishes, *, broker: str, name: str) -> dict[str, Any]:
    """What the demonstration decides, whatever environment and `--set` say."""
    changes: dict[str, Any] = {
        "federation.name": name,
        "federation.task": "anomaly",
        "broker.url": broker,
        "data_broker.url": broker,
        "node.state_dir": wishes.folder / "state",
        "artifacts.dir": wishes.folder,
        "rounds.count": wishes.rounds,
        "rounds.target_updates": wishes.trainers,
        "rounds.fraction": 1.0,
        "rounds.history": min(max(2 * wishes.rounds, 100), 10_000),  # not every version is made by a round
        "rounds.keep_versions": 2 * wishes.rounds + 2,
    }
    if wishes.data is not None:
        changes |= {"data.source": detect(wishes.data), "data.path": wishes.data}
    if wishes.backend is not None:
        changes["learning.backend"] = wishes.backend
    return changes


def flags(changes: Mapping[str, Any]) -> list[str]:
    """`--set section.field=value …`, which win over file and environment."""
    return [word for name, value in changes.items() for word in ("--set", f"{name}={_text(value)}")]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def node_command(plan: Plan, command: str, node: str) -> list[str]:
    """Arguments of `fedlearn` for a trainer or predictor."""
    return [command, "--config", str(plan.configuration), "--node", node]


def training_streams(plan: Plan, splits: Splits) -> list[str]:
    """Arguments of `fedlearn generate`: each trainer's share of the training part, by group where there are enough."""
    groups = training_rows(plan.settings, splits.train).groups
    natural = groups is not None and len(np.unique(groups.astype(str))) >= len(plan.trainers)
    changes = {"generator.part": "train", "data.partition": "group" if natural else "even"}
    return _streams(plan, plan.trainers, changes)


def test_streams(plan: Plan, splits: Splits) -> list[str]:
    """The same for predictors: the test part, normal and anomalous in turn where it has both."""
    both = bool((splits.test.y > 0).any() and (splits.test.y <= 0).any())
    changes = {
        "generator.part": "test",
        "data.partition": "even",
        "generator.normal_s": NORMAL_S if both else 0.0,
        "generator.anomalous_s": ANOMALOUS_S if both else 0.0,
    }
    return _streams(plan, plan.predictors, changes)


def _streams(plan: Plan, nodes: Sequence[str], changes: Mapping[str, Any]) -> list[str]:
    everywhere = {"generator.nodes": tuple(nodes), "generator.duration_s": 0.0, "generator.loop": True}
    return ["generate", "--config", str(plan.configuration), *flags({**everywhere, **changes})]
