"""Early stopping and learning-rate reduction as pure functions of the losses, as Keras's callbacks decide them.

A local fit calls no Keras callbacks, which would convert logs after every batch; so their rules stand here.
"""

from dataclasses import dataclass, replace
from typing import Self

from dl_mqtt_clients.wire.messages import EarlyStopping, ReduceOnPlateau


@dataclass(frozen=True, slots=True)
class Patience:
    """Epochs since the loss last fell by more than delta (`keras.callbacks.EarlyStopping`, mode min)."""

    best: float = float("inf")
    waited: int = 0

    def after(self, loss: float, settings: EarlyStopping) -> Self:
        if loss < self.best - settings.delta:
            return replace(self, best=loss, waited=0)
        return replace(self, waited=self.waited + 1)

    def is_over(self, settings: EarlyStopping) -> bool:
        return self.waited >= settings.patience


@dataclass(frozen=True, slots=True)
class Plateau:
    """The learning rate under `keras.callbacks.ReduceLROnPlateau`, mode min."""

    learning_rate: float
    best: float = float("inf")
    waited: int = 0
    cooling: int = 0

    def after(self, loss: float, settings: ReduceOnPlateau) -> Self:
        cooling = max(0, self.cooling - 1)
        waited = 0 if self.cooling else self.waited
        if loss < self.best - settings.delta:
            return replace(self, best=loss, waited=0, cooling=cooling)
        if cooling:
            return replace(self, waited=waited, cooling=cooling)
        if waited + 1 < settings.patience or self.learning_rate <= settings.minimum:
            return replace(self, waited=waited + 1, cooling=cooling)
        reduced = max(self.learning_rate * settings.factor, settings.minimum)
        return replace(self, learning_rate=reduced, waited=0, cooling=settings.cooldown)
