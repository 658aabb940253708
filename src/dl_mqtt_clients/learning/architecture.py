"""A federation's model as bytes, and back: what the blob `architecture` holds."""

from collections.abc import Sequence

from dl_mqtt_clients.learning.description import describe, restore
from dl_mqtt_clients.learning.model import FederatedModel

__all__ = ["describe", "rebuild"]


def rebuild(
    architecture: bytes, *, max_parameters: int = 200_000_000, custom_modules: Sequence[str] = ()
) -> FederatedModel:
    """The model that `architecture` describes, its weights random and its scaler the identity.

    Args:
        architecture: what `describe` wrote; untrusted.
        max_parameters: more are refused before anything is allocated.
        custom_modules: modules whose registered classes may be used, from the node's own configuration.

    Raises:
        ModelError: not JSON, too large, not on the allow-list, or Keras cannot build it.

    """
    return FederatedModel(restore(architecture, max_parameters=max_parameters, custom_modules=custom_modules))
