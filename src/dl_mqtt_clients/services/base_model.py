"""The base model of a federation, made of the configured data and model: what `fedlearn model build` does."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.dataset import Dataset, Splits
from dl_mqtt_clients.data.sources import load_configured
from dl_mqtt_clients.errors import DataError
from dl_mqtt_clients.services.from_settings import use_backend_of
from dl_mqtt_clients.wire.feature_sums import MAX_CODE

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.scaling import ScalerValues
    from dl_mqtt_clients.learning.vocabularies import Categorical


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """An untrained model with its scaler, and how well it does without having learnt anything."""

    model: "FederatedModel"
    scaled_on: int  # rows the scaler was fitted on
    tested_on: int  # labelled rows of the test part
    auroc: float | None  # 0…1 on these; None: one class is missing
    average_precision: float | None


def make_base_model(settings: Settings, splits: Splits | None = None) -> BaseModel:
    """From `settings.data` (or `splits`) and `settings.model`. Chooses the backend, imports Keras.

    Raises:
        DataError: the data set cannot be read as asked.
        ModelError: Keras refuses the model, or it does not fit the data.

    """
    use_backend_of(settings)
    splits = splits or load_configured(settings.data)
    from dl_mqtt_clients.learning.evaluation import auroc, average_precision  # noqa: PLC0415
    from dl_mqtt_clients.learning.model import FederatedModel  # noqa: PLC0415 - imports Keras

    rows = training_rows(settings, splits.train)
    model = FederatedModel.from_core(
        _core(settings, rows),
        task=settings.federation.task,
        features=rows.features,
        scaler=_scaler(settings, rows),
        custom_modules=settings.model.custom_modules,
    )
    known = splits.test.select(splits.test.y >= 0)
    scores = model.scores(known.x) if len(known) else known.y
    return BaseModel(
        model=model,
        scaled_on=len(rows),
        tested_on=len(known),
        auroc=auroc(scores, known.y > 0),
        average_precision=average_precision(scores, known.y > 0),
    )


def save_base_model(settings: Settings, base: BaseModel) -> Path:
    """Write it where the manager looks for it; the folder."""
    from dl_mqtt_clients.learning.files import save_base  # noqa: PLC0415 - imports Keras

    folder = Path(settings.artifacts.dir) / "model"
    save_base(base.model, folder)
    return folder


def training_rows(settings: Settings, train: Dataset) -> Dataset:
    """The rows to learn from: normal ones only, where the task and the configuration say so."""
    normal_only = settings.federation.task == "anomaly" and settings.data.normal_only
    rows = train.normal() if normal_only else train
    if not len(rows):
        raise DataError(f"{train.name}: expected {'normal ' if normal_only else ''}rows to learn from. Received: none")
    return rows


def initial_seed(settings: Settings) -> int:
    """The federation's seed as the number that initial weights are drawn from, 0 … 2³¹ - 1."""
    digest = hashlib.sha256(settings.federation.seed.encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _core(settings: Settings, rows: Dataset) -> Any:
    model, task = settings.model, settings.federation.task
    if model.file:
        from dl_mqtt_clients.learning.keras_file import load_keras_file  # noqa: PLC0415 - imports Keras

        return load_keras_file(
            Path(model.file), max_parameters=model.max_parameters, custom_modules=model.custom_modules
        )
    from dl_mqtt_clients.learning.builders import build_core  # noqa: PLC0415 - imports Keras

    # Cross-entropy needs probabilities: `linear` is the default for anomaly.
    by_task = task == "supervised" and model.output_activation == "linear" and not model.loss
    return build_core(
        n_features=_categorical(settings, rows).width(len(rows.features)),
        task=task,
        hidden=model.hidden,
        activation=model.activation,
        output_activation=None if by_task else model.output_activation,
        loss=model.loss or None,
        learning_rate=model.learning_rate,
        seed=initial_seed(settings),
        classes=max(int(rows.y.max()) + 1, 2),
    )


def _scaler(settings: Settings, rows: Dataset) -> "ScalerValues":
    from dl_mqtt_clients.learning.scaling import ScalerValues  # noqa: PLC0415 - imports Keras

    categorical = _categorical(settings, rows)
    if settings.model.scaling == "none":
        return ScalerValues.identity(len(rows.features)).listing(categorical, rows.x)
    fit = ScalerValues.standard if settings.model.scaling == "standard" else ScalerValues.minmax
    return fit(rows.x, categorical=categorical)


def _categorical(settings: Settings, rows: Dataset) -> "Categorical":
    from dl_mqtt_clients.learning.vocabularies import NO_CATEGORIES, Categorical  # noqa: PLC0415 - imports Keras

    names = settings.data.categorical
    if missing := [name for name in names if name not in rows.features]:
        raise DataError(f"data: categorical: expected some of {list(rows.features)[:50]}. Received: {missing}")
    if not names:
        return NO_CATEGORIES
    columns = tuple(sorted(rows.features.index(name) for name in set(names)))
    values = rows.x[:, columns]
    wrong = ((values % 1 != 0) | (np.abs(values) > MAX_CODE)).any(axis=0)
    if wrong.any():
        name = rows.features[columns[int(np.argmax(wrong))]]
        raise DataError(f"{rows.name}: {name}: expected words, or whole numbers within ±2^24. Received: other numbers")
    return Categorical(columns, settings.vocabulary.size)
