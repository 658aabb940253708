"""What runs a node's model: Keras, or ONNX Runtime on a device that is too small for it. Importing it imports neither.

A version is the same for both: its manifest names the weights once, and a description of the model for each: the blob
`architecture` for Keras, and `onnx`, where the manager publishes it, for ONNX Runtime.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from numpy.typing import ArrayLike, NDArray

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.learning.onnx_check import MAX_GRAPH_BYTES
from dl_mqtt_clients.learning.onnx_model import OnnxModel, runtime
from dl_mqtt_clients.services.from_settings import use_backend_of
from dl_mqtt_clients.wire.messages import Manifest, Task, Variable

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel


class Scoring(Protocol):
    """What a predictor asks of a model; see `FederatedModel` and `OnnxModel`."""

    task: Task
    features: tuple[str, ...]
    n_features: int
    architecture: bytes  # what it was made of

    @property
    def batch_sizes(self) -> tuple[int, ...]: ...
    def take_roles(self, variables: Sequence[Variable]) -> None: ...
    def get_weights(self) -> list[NDArray[Any]]: ...
    def set_weights(self, weights: Sequence[NDArray[Any]]) -> None: ...
    def scores(self, x: ArrayLike) -> NDArray[Any]: ...
    def predict(self, x: ArrayLike) -> tuple[NDArray[Any], NDArray[Any] | None]: ...
    def warm_up(self, batch_sizes: Sequence[int]) -> None: ...


ModelOf = TypeVar("ModelOf", bound=Scoring)
Made_co = TypeVar("Made_co", bound=Scoring, covariant=True)


class Runtime(Protocol[Made_co]):
    """Makes models of their descriptions.

    `name`: for the status · `describes`: the blob that it takes.
    """

    name: str
    describes: str

    def load(self) -> None:
        """Import now what takes its time."""

    def rebuild(self, description: bytes, manifest: Manifest) -> Made_co:
        """A model of this manifest's. ModelError says why not."""


class KerasRuntime:
    """Keras on the backend that the settings name, which is chosen now."""

    describes = "architecture"

    def __init__(self, settings: Settings) -> None:
        self._limits = settings.model
        self.name = use_backend_of(settings)

    def load(self) -> None:
        from dl_mqtt_clients.learning import architecture  # noqa: F401, PLC0415 - imports Keras

    def rebuild(self, description: bytes, manifest: Manifest) -> "FederatedModel":  # noqa: ARG002 - it says all itself
        from dl_mqtt_clients.learning.architecture import rebuild  # noqa: PLC0415 - imports Keras

        limits = self._limits
        return rebuild(description, max_parameters=limits.max_parameters, custom_modules=limits.custom_modules)


class OnnxRuntime:
    """ONNX Runtime, without Keras and its backend."""

    name = "onnxruntime"
    describes = "onnx"

    def load(self) -> None:
        runtime()

    def rebuild(self, description: bytes, manifest: Manifest) -> OnnxModel:
        return OnnxModel(description, task=manifest.task, features=manifest.features, most_bytes=MAX_GRAPH_BYTES)


def runtime_of(settings: Settings) -> "Runtime[Scoring]":
    """The one that a predictor's settings ask for."""
    chosen = settings.predictor
    return OnnxRuntime() if chosen.runtime == "onnx" or chosen.file else KerasRuntime(settings)
