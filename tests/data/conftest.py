"""Real data beside the checkout, for those who have it."""

import os
from pathlib import Path

import numpy as np
import pytest

from dl_mqtt_clients.data.dataset import Dataset


def _shared(name):
    folder = Path(os.environ.get("FEDLEARN_SHARED", Path(__file__).parents[3] / "shared")) / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} at {folder} (set FEDLEARN_SHARED)")
    return folder


@pytest.fixture
def beth_sample():
    return _shared("beth-sample")


@pytest.fixture
def nsl_kdd_files():
    return _shared("nsl-kdd")


@pytest.fixture
def make_dataset():
    """Rows that tell their position; labels and groups as given."""

    def make(y, groups=None):
        n = len(y)
        x = np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
        named = None if groups is None else np.array(groups, object)
        return Dataset(x, np.array(y, np.int8), ("a", "b"), named, "made")

    return make
