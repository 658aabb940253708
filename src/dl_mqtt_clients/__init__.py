"""Federated learning for Keras on edge devices, over MQTT.

    from dl_mqtt_clients import EmbeddedBroker, Manager, Trainer

    with EmbeddedBroker() as broker, Trainer("a", broker=broker.url, readings=x):
        Manager(model, broker=broker.url, rounds=10).run()

Names are imported when they are first used: `import dl_mqtt_clients` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dl_mqtt_clients.config import Settings, load_settings
    from dl_mqtt_clients.data.categories import category_code
    from dl_mqtt_clients.data.dataset import Dataset
    from dl_mqtt_clients.errors import FederatedLearningError
    from dl_mqtt_clients.learning.scaling import ScalerValues
    from dl_mqtt_clients.learning.vocabularies import Categorical
    from dl_mqtt_clients.services.generator import Generator
    from dl_mqtt_clients.services.manager import Manager
    from dl_mqtt_clients.services.predictor import Predictor
    from dl_mqtt_clients.services.trainer import Trainer
    from dl_mqtt_clients.transport.embedded import EmbeddedBroker

_PLACES = {
    "Categorical": "learning.vocabularies",
    "Dataset": "data.dataset",
    "EmbeddedBroker": "transport.embedded",
    "FederatedLearningError": "errors",
    "Generator": "services.generator",
    "Manager": "services.manager",
    "Predictor": "services.predictor",
    "ScalerValues": "learning.scaling",
    "Settings": "config",
    "Trainer": "services.trainer",
    "category_code": "data.categories",
    "load_settings": "config",
}

__all__ = [
    "Categorical",
    "Dataset",
    "EmbeddedBroker",
    "FederatedLearningError",
    "Generator",
    "Manager",
    "Predictor",
    "ScalerValues",
    "Settings",
    "Trainer",
    "category_code",
    "load_settings",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _PLACES[name].startswith("learning."):
        import_module(f"{__name__}.services.from_settings").use_backend_of(
            import_module(f"{__name__}.config").Settings()
        )
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
