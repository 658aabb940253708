"""Made data sets."""

import numpy as np
import pytest

from dl_mqtt_clients.data.dataset import Dataset


@pytest.fixture
def make_dataset():
    """Rows that tell their position; labels and groups as given."""

    def make(y, groups=None):
        n = len(y)
        x = np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
        named = None if groups is None else np.array(groups, object)
        return Dataset(x, np.array(y, np.int8), ("a", "b"), named, "made")

    return make
