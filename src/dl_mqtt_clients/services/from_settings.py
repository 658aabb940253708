"""From settings to what transports, rounds and fits take."""

import os
import sys
from pathlib import Path

from dl_mqtt_clients.aggregation.strategies import read_strategy
from dl_mqtt_clients.aggregation.triggers import TriggerRules
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.config.broker import BrokerSettings
from dl_mqtt_clients.config.shared import RoundSettings, TrainingSettings
from dl_mqtt_clients.errors import ConfigurationError, ModelError
from dl_mqtt_clients.learning.backend import use_backend
from dl_mqtt_clients.learning.objectives import Scaffold, parse_objective
from dl_mqtt_clients.transport.base import Address
from dl_mqtt_clients.wire.codecs import CODECS, is_known
from dl_mqtt_clients.wire.messages import EarlyStopping, ReduceOnPlateau, Training


def address(broker: BrokerSettings) -> Address:
    """Where a broker is, and how to be let in."""
    return Address(
        url=broker.url,
        username=broker.username or None,
        password=broker.read_password() or None,
        ca_file=_path(broker.ca_file),
        cert_file=_path(broker.cert_file),
        key_file=_path(broker.key_file),
        keepalive_s=broker.keepalive_s,
    )


def training(settings: TrainingSettings, *, round_number: int = 1) -> Training:
    """The local work as it is announced for a round: its learning rate has decayed."""
    rate = settings.learning_rate
    if rate is not None:
        decayed = rate * settings.learning_rate_decay ** (round_number - 1)
        rate = max(decayed, min(settings.learning_rate_minimum, rate))
    stop, plateau = settings.early_stopping, settings.reduce_on_plateau
    return Training(
        epochs=settings.epochs,
        steps=settings.steps,
        batch_size=settings.batch_size,
        optimizer=settings.optimizer,
        objective=settings.objective,
        learning_rate=rate,
        window=settings.window,
        min_readings=settings.min_readings,
        min_new_readings=settings.min_new_readings,
        early_stopping=EarlyStopping(patience=stop.patience, delta=stop.delta) if stop.enabled else None,
        reduce_on_plateau=ReduceOnPlateau(
            patience=plateau.patience,
            delta=plateau.delta,
            cooldown=plateau.cooldown,
            factor=plateau.factor,
            minimum=plateau.minimum,
        )
        if plateau.enabled
        else None,
    )


def trigger_rules(settings: RoundSettings) -> TriggerRules:
    """What begins a round."""
    return TriggerRules(
        continuous=settings.continuous,
        interval_s=settings.every_s or None,
        readings=settings.every_readings or None,
        drifted_nodes=settings.drifted_nodes or None,
        pause_s=settings.pause_s,
    )


def with_brokers(settings: Settings | None, broker: str | None, data_broker: str | None = None) -> Settings:
    """Settings with other broker addresses, for short scripts."""
    changes = {"broker.url": broker, "data_broker.url": data_broker or broker}
    return (settings or Settings()).replace(**{k: v for k, v in changes.items() if v})


def check_rules(settings: Settings) -> None:
    """ConfigurationError lists what strategy and codec have wrong: texts that only the rooms behind them understand."""
    mistakes: list[str] = []
    try:
        read_strategy(settings.rounds.strategy, folders=[Path(settings.rounds.rules_folder)])
    except ConfigurationError as error:
        mistakes += error.mistakes
    mistakes += _objective_mistakes(settings)
    if not is_known(settings.transfer.codec):
        expected, received = ", ".join(CODECS), settings.transfer.codec
        mistakes.append(f"transfer.codec: expected one of {expected}. Received: {received!r}")
    if mistakes:
        raise ConfigurationError(mistakes)


def has_controls(objective: str) -> bool:
    """Whether a control travels beside each update. ModelError when it is no objective."""
    return isinstance(parse_objective(objective), Scaffold)


def _objective_mistakes(settings: Settings) -> list[str]:
    try:
        if has_controls(settings.training.objective) and settings.rounds.mode != "sync":
            return [f"training.objective: expected rounds.mode sync with SCAFFOLD. Received: {settings.rounds.mode}"]
    except ModelError as error:
        return [f"training.{error}"]
    return []


def use_backend_of(settings: Settings) -> str:
    """Choose Keras's backend before anything imports Keras: the settings, else KERAS_BACKEND, else the default.

    A script that has imported Keras already keeps the backend it has, unless the settings name another one.
    """
    learning = settings.learning
    name: str = learning.backend
    if "backend" not in learning.model_fields_set:
        loaded = sys.modules.get("keras")
        name = loaded.backend.backend() if loaded else os.environ.get("KERAS_BACKEND", name)
    cache = _path(learning.compile_cache)
    return use_backend(name, gpu=learning.gpu, compile_cache=cache)


def _path(text: str) -> Path | None:
    return Path(text) if text else None
