"""Keras on the backend that KERAS_BACKEND names (JAX unless said otherwise)."""

import numpy as np
import pytest

from dl_mqtt_clients.learning.backend import use_backend

BACKEND = use_backend()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def readings(rng):
    """[500, 6] with structure to learn, on uneven scales."""
    latent = rng.normal(size=(500, 2))
    return (latent @ rng.normal(size=(2, 6)) * [1, 10, 0.1, 5, 1, 1] + [0, 100, 3, 0, 0, 1]).astype(np.float32)


@pytest.fixture
def autoencoder(readings):
    from dl_mqtt_clients.learning.builders import build_core
    from dl_mqtt_clients.learning.model import FederatedModel
    from dl_mqtt_clients.learning.scaling import ScalerValues

    core = build_core(n_features=6, hidden=(8, 2, 8), seed=1)
    return FederatedModel.from_core(core, scaler=ScalerValues.standard(readings))
