"""The manager's ONNX graph of its architecture: made once, compared with Keras, published beside the weights."""

import logging
from typing import TYPE_CHECKING

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from dl_mqtt_clients.learning.model import FederatedModel

log = logging.getLogger(__name__)


def checked_graph(model: "FederatedModel", settings: Settings) -> bytes:
    """The graph that predictors without Keras run with any version's weights.

    ConfigurationError, since it is `model.onnx` that asks for it: it cannot be made, or computes something else.
    """
    from dl_mqtt_clients.learning.export_check import check_same  # noqa: PLC0415 - only where it is asked for
    from dl_mqtt_clients.learning.onnx_graph import make_graph  # noqa: PLC0415
    from dl_mqtt_clients.learning.onnx_model import OnnxModel  # noqa: PLC0415

    log.info("making the ONNX graph of this architecture; it takes a while, and is done once")
    try:
        graph = make_graph(
            model.architecture,
            max_parameters=settings.model.max_parameters,
            custom_modules=settings.model.custom_modules,
        )
        made = OnnxModel(graph, task=model.task)
        made.take_roles(model.variables)
        made.set_weights(model.get_weights())
        difference = check_same(model, made.outputs, threshold=None, name="onnx")
    except ModelError as error:
        raise ConfigurationError([f"model.onnx: expected a model that ONNX can express. Received: {error}"]) from error
    log.info("the ONNX graph has %d bytes and differs from Keras by %.1g", len(graph), difference)
    return graph
