"""The model of a federation: scaler -> core -> score, with its weights as one list in the plan's order."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.correction import Correction, corrected
from dl_mqtt_clients.learning.description import Restored, describe, restore
from dl_mqtt_clients.learning.export import Exporter
from dl_mqtt_clients.learning.optimizers import make_optimizer
from dl_mqtt_clients.learning.roles import roles_of
from dl_mqtt_clients.learning.rows import as_readings
from dl_mqtt_clients.learning.scaling import ScalerValues, Scaling, required_features
from dl_mqtt_clients.learning.scoring import Scorer, compose
from dl_mqtt_clients.learning.steps import BatchSteps, make_steps
from dl_mqtt_clients.learning.vocabularies import NO_CATEGORIES
from dl_mqtt_clients.wire.messages import Task, Variable, VariableRole
from dl_mqtt_clients.wire.weights import mark_personal

_REBUILT_TOLERANCE = 1e-4


class FederatedModel:
    """scaler -> core -> score, rebuilt from its own description. Not thread-safe: one thread owns it.

    `core`: the Keras model in scaled space · `variables`: the plan, what `get_weights` lists and in which order: the
    scaler's offset, scale and vocabularies, then the core's, seed generators left out · `architecture`: the
    description's bytes · `parameters`: values in all variables of the plan.
    """

    def __init__(self, restored: Restored, *, personal: Sequence[str] = ()) -> None:
        self.core: keras.Model = restored.core
        self.task: Task = restored.task
        self.features = restored.features
        self.architecture = restored.architecture
        self.categorical = restored.categorical
        self.n_features = self.categorical.features(required_features(self.core.inputs[0].shape[1:]))
        scaling = Scaling(self.categorical, name="scaler")
        loss, features = self.core.loss, self.n_features
        reading, outputs = compose(self.core, scaling, features=features, task=self.task, loss=loss)
        if self.task == "anomaly":
            del outputs["output"]  # no one asks for reconstructions: don't copy them out
        self._composed = keras.Model(reading, outputs, name="federated")
        self._scorer = Scorer(self._composed, features=self.n_features)
        self._scaler = scaling.weights
        self._held: list[Any] = [*self._scaler, *self.core.weights]
        roles: list[VariableRole] = ["scaler" for _ in self._scaler]
        roles += roles_of(self.core)
        planned = [_variable(v, role) for v, role in zip(self._held, roles, strict=True)]
        self.variables: tuple[Variable, ...] = mark_personal(planned, personal)
        self.parameters = sum(int(np.prod(v.shape)) for v in self.variables)
        self._exporter = Exporter(self.core, task=self.task)
        self._optimizer = restored.optimizer
        self._trains: tuple[str, Correction | None] = ("", None)  # what the core is compiled for
        self._steps: BatchSteps | None = None
        self.make_steps: Callable[[keras.Model], BatchSteps] = make_steps

    @classmethod
    def from_core(
        cls,
        core: keras.Model,
        *,
        task: Task = "anomaly",
        features: Sequence[str] = (),
        scaler: ScalerValues | None = None,
        custom_modules: Sequence[str] = (),
        personal: Sequence[str] = (),
    ) -> Self:
        """A federation's model from a user's compiled core, whose weights are copied; the core itself is left alone.

        Args:
            core: compiled; frozen layers and weights stay frozen, LoRA adapters stay adapters.
            task: what its outputs are trained to be.
            features: names of the readings' values.
            scaler: None: the identity. It says as well which features are categorical.
            custom_modules: modules whose registered classes may be used.
            personal: patterns of paths whose variables stay on their node; see `mark_personal`.

        Raises:
            ModelError: another node could not rebuild it, or would compute something else with it.
            ConfigurationError: a pattern that matches nothing.

        """
        categorical = scaler.categorical if scaler else NO_CATEGORIES
        architecture = describe(
            core, task=task, features=features, categorical=categorical, custom_modules=custom_modules
        )
        model = cls(restore(architecture, max_parameters=2**53, custom_modules=custom_modules), personal=personal)
        values = scaler or ScalerValues.identity(model.n_features)
        codes = [values.codes] if categorical.columns else []
        model.set_weights([values.offset, values.scale, *codes, *(_numpy(v) for v in core.weights)])
        _check_same(core, model.core)
        return model

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes that batches are padded to, smallest first."""
        return self._scorer.batch_sizes

    @property
    def scaler(self) -> ScalerValues:
        offset, scale, *codes = (_numpy(v) for v in self._scaler)
        return ScalerValues(offset, scale, self.categorical, codes[0] if codes else self.categorical.none())

    def steps(self, *, optimizer: str = "", correction: Correction | None = None) -> BatchSteps:
        """Training steps with this optimizer (see `make_optimizer`); compiled anew only when these change.

        Made at the first fit: an optimizer's variables are as large as the model again.
        """
        if self._trains != (optimizer, correction):
            made = corrected(make_optimizer(optimizer, self._optimizer), correction)
            self._steps = None
            self.core.compile(optimizer=made, loss=self.core.loss)
            self._trains = (optimizer, correction)
        if self._steps is None:
            self._steps = self.make_steps(self.core)
        return self._steps

    def take_roles(self, variables: Sequence[Variable]) -> None:
        """Take the roles that a manifest lists, which count for all. ModelError when its plan is another than ours."""
        ours, theirs = ([(v.shape, v.dtype) for v in plan] for plan in (self.variables, variables))
        if ours != theirs:
            raise ModelError("manifest: its list of variables is not that of its architecture")
        self.variables = tuple(
            msgspec.structs.replace(own, role=given.role) for own, given in zip(self.variables, variables, strict=True)
        )

    def positions(self, *roles: VariableRole) -> list[int]:
        """Where variables of these roles stand in the plan."""
        return [i for i, v in enumerate(self.variables) if v.role in roles]

    def places(self, positions: Sequence[int]) -> list[int]:
        """Where variables of the plan stand among `core.trainable_variables`."""
        found = {id(v): place for place, v in enumerate(self.core.trainable_variables)}
        return [found[id(self._held[p])] for p in positions if id(self._held[p]) in found]

    def get_weights(self) -> list[NDArray[Any]]:
        """Copies, one for each entry of `variables`."""
        return [_numpy(v) for v in self._held]

    def keep_frozen(self, base: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The weights, after those that are frozen or the scaler's were set back to `base` where anything moved them.

        A layer of one's own may count its calls, or move weights that a pattern or the plan says are frozen.
        """
        weights = self.get_weights()
        for p in self.positions("frozen", "scaler"):
            if not np.array_equal(weights[p], base[p]):
                weights[p] = np.array(base[p])
                self._held[p].assign(np.array(base[p]))
        return weights

    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None:
        """Take these values. ModelError when count, shapes or dtypes differ from the plan; nothing changed then."""
        if len(weights) != len(self.variables):
            raise ModelError(f"weights: expected {len(self.variables)} arrays. Received: {len(weights)}")
        for position, (planned, value) in enumerate(zip(self.variables, weights, strict=True)):
            shape, dtype = np.shape(value), keras.backend.standardize_dtype(np.asarray(value).dtype)
            if shape != planned.shape or dtype != planned.dtype:
                raise ModelError(
                    f"weights[{position}] ({planned.path}): expected {planned.dtype} {planned.shape}."
                    f" Received: {dtype} {shape}"
                )
        for held, value in zip(self._held, weights, strict=True):
            held.assign(np.array(value))  # a copy: on JAX an array may be shared, not copied

    def scores(self, x: ArrayLike) -> NDArray[np.float32]:
        """Raw readings [n, features] -> scores [n], ≥ 0. ModelError when the shape is another."""
        return self._scorer(self._readings(x))["score"]

    def predict(self, x: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Scores [n], and for `supervised` the core's outputs [n, …]."""
        outputs = self._scorer(self._readings(x))
        return outputs["score"], outputs["output"] if self.task == "supervised" else None

    def outputs_under(self, weights: Sequence[Any], x: Any) -> dict[str, Any]:
        """What readings [n, features] give under these weights, all in the backend's own tensors, perhaps symbolic.

        A pure function, for those who convert the model into another form: nothing is assigned.
        """
        given = {id(held): weight for held, weight in zip(self._held, weights, strict=True)}
        model = self._composed
        values = [
            [given.get(id(v), v.value) for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)
        ]
        outputs: dict[str, Any] = model.stateless_call(*values, x, training=False)[0]
        return outputs

    def scaled(self, x: ArrayLike) -> NDArray[np.float32]:
        """Raw readings [n, features] -> what the core takes: [n, *core.input_shape[1:]]."""
        rows = self.scaler.apply(self._readings(x))
        return rows.reshape(len(rows), *self.core.inputs[0].shape[1:])

    def warm_up(self, batch_sizes: Sequence[int]) -> None:
        """Compile now what batches of these sizes will need."""
        for size in {self._scorer.size_for(rows) for rows in batch_sizes}:
            self.scores(np.zeros((size, self.n_features), np.float32))

    def save(self, path: Path, *, threshold: float | None = None) -> None:
        """Write a `.keras` file that plain Keras loads and that takes raw readings; see `export`. Atomic."""
        self._exporter.save(path, scaler=self.scaler, threshold=threshold)

    def for_others(self, *, threshold: float | None) -> keras.Model:
        """Plain Keras layers with these weights, the scaler's and the threshold constants; see `export`."""
        return self._exporter.with_constants(self.scaler, threshold)

    def _readings(self, x: ArrayLike) -> NDArray[np.float32]:
        return as_readings(x, features=self.n_features)


def _variable(held: Any, role: VariableRole) -> Variable:
    return Variable(
        role=role,
        shape=tuple(int(size) for size in held.shape),
        dtype=keras.backend.standardize_dtype(held.dtype),
        path=held.path,
    )


def _numpy(held: Any) -> NDArray[Any]:
    return np.array(keras.ops.convert_to_numpy(held.value))


def _check_same(core: keras.Model, rebuilt: keras.Model) -> None:
    """The copy must compute what the original does, or weights went to the wrong places."""
    shape = (2, *core.inputs[0].shape[1:])
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    trained, trained_again = (
        [id(v) in {id(t) for t in m.trainable_variables} for v in m.weights] for m in (core, rebuilt)
    )
    if trained != trained_again:
        raise ModelError("core: rebuilt from its configuration it trains other weights; is one frozen by its own code?")
    expected, received = (m.predict_on_batch(x) for m in (core, rebuilt))
    if not np.allclose(expected, received, rtol=_REBUILT_TOLERANCE, atol=_REBUILT_TOLERANCE):
        raise ModelError(
            "core: rebuilt from its configuration it computes something else; is state kept outside weights?"
        )
