"""The model that a manager is given, and whether its settings fit to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ConfigurationError, ModelError
from dl_mqtt_clients.services.from_settings import has_controls
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import mark_personal

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.scaling import ScalerValues


def given_model(
    settings: Settings, model: object | None, features: Sequence[str], scaler: "ScalerValues | None"
) -> "FederatedModel | None":
    """The base model of the caller, or of `artifacts/model`; None when there is none."""
    from dl_mqtt_clients.learning.model import FederatedModel  # noqa: PLC0415 - imports Keras

    if model is not None:
        if isinstance(model, FederatedModel):
            return model
        return FederatedModel.from_core(model, task=settings.federation.task, features=tuple(features), scaler=scaler)
    folder = Path(settings.artifacts.dir) / "model"
    if not (folder / "architecture.json").exists():
        return None
    from dl_mqtt_clients.learning.files import load_base  # noqa: PLC0415 - imports Keras

    limits = settings.model
    return load_base(folder, max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)


def marked(settings: Settings, variables: Sequence[Variable]) -> tuple[Variable, ...]:
    """Those personal that the settings say. ConfigurationError when a pattern matches nothing of the model."""
    try:
        return mark_personal(variables, settings.model.personal)
    except ConfigurationError as error:
        raise ConfigurationError([f"model.{mistake}" for mistake in error.mistakes]) from error


def check_optimizer(settings: Settings) -> None:
    """ConfigurationError when no node could make the optimizer that the settings name."""
    from dl_mqtt_clients.learning.optimizers import make_optimizer  # noqa: PLC0415 - imports Keras

    text = settings.training.optimizer
    try:
        if text:
            make_optimizer(text, {})
    except ModelError as error:
        raise ConfigurationError([f"training.{error}"]) from error


def check_objective(settings: Settings, model: "FederatedModel") -> None:
    """ConfigurationError when the steps of the model's or the settings' optimizer are none for SCAFFOLD."""
    from dl_mqtt_clients.learning.controls import momentum_of  # noqa: PLC0415 - imports Keras
    from dl_mqtt_clients.learning.optimizers import make_optimizer  # noqa: PLC0415 - imports Keras

    text = settings.training.optimizer
    try:
        if has_controls(settings.training.objective):
            momentum_of(make_optimizer(text, {}) if text else model.core.optimizer)
    except ModelError as error:
        raise ConfigurationError([f"training.{error}"]) from error
