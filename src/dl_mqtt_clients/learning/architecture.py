"""A federation's model as bytes, and back: what the blob `architecture` holds."""

from collections.abc import Sequence

from dl_mqtt_clients.learning.description import describe, restore
from dl_mqtt_clients.learning.model import FederatedModel

__all__ = ["describe", "rebuild"]


def rebuild(
    architecture: bytes,
    *,
    max_parameters: int = 200_000_000,
    custom_modules: Sequence[str] = (),
    personal: Sequence[str] = (),
) -> FederatedModel:
    """The model that `architecture` describes, its weights random and its scaler the identity.

    Args:
        architecture: what `describe` wrote; untrusted.
        max_parameters: more are refused before anything is allocated.
        custom_modules: modules whose registered classes may be used, from the node's own configuration.
        personal: patterns of paths whose variables stay on their node. A node leaves it empty, and takes the roles of
            its manifest (`take_roles`): paths may differ from one rebuilding to the next.

    Raises:
        ModelError: not JSON, too large, not on the allow-list, or Keras cannot build it.
        ConfigurationError: a pattern that matches nothing.

    """
    restored = restore(architecture, max_parameters=max_parameters, custom_modules=custom_modules)
    return FederatedModel(restored, personal=personal)
