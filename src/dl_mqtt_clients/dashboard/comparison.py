"""What a model is worth on the test part, and what one model trained on everybody's data would have been worth."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.wire.messages import RoundReport, Training

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

Weights = Sequence[np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One model on the test part. None where a class is missing."""

    name: str
    auroc: float | None
    average_precision: float | None
    loss: float | None  # mean score of normal rows
    scores: np.ndarray  # [n], of the test part


def measure(name: str, model: "FederatedModel", weights: Weights, test: Dataset) -> Measured:
    """Score every row of `test` with these weights."""
    from dl_mqtt_clients.learning.evaluation import auroc, average_precision  # noqa: PLC0415 - its room imports Keras

    model.set_weights(weights)
    scores = model.scores(test.x)
    known = test.y >= 0
    anomalous = test.y[known] > 0
    normal = scores[test.y <= 0]
    return Measured(
        name=name,
        auroc=auroc(scores[known], anomalous),
        average_precision=average_precision(scores[known], anomalous),
        loss=float(normal.mean(dtype=np.float64)) if len(normal) else None,
        scores=scores,
    )


def train_centrally(
    model: "FederatedModel",
    base: Weights,
    train: Dataset,
    *,
    rounds: Sequence[RoundReport],
    training: Training,
    seed: int,
) -> Weights:
    """Weights that one model reaches on everybody's readings, with as many epochs as all rounds together.

    An epoch has as many readings as all participants of a round used, so both see the same number in all.
    """
    from dl_mqtt_clients.learning.fit import fit  # noqa: PLC0415 - imports Keras

    used = sum(participant.examples for report in rounds for participant in report.participants)
    rows = np.random.default_rng(seed).permutation(len(train))[: max(used // max(len(rounds), 1), 1)]
    work = Training(
        epochs=training.epochs * max(len(rounds), 1),
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        window=len(rows),
    )
    return fit(model, base, train.x[rows], None, training=work, seed=seed).weights
