"""Real data beside the checkout, for those who have it; tests that need it are skipped visibly without."""

import os
from pathlib import Path

import pytest


def shared_folder(*parts: str) -> Path:
    folder = Path(os.environ.get("FEDLEARN_SHARED", Path(__file__).parents[2] / "shared")).joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"no {'/'.join(parts)} at {folder} (set FEDLEARN_SHARED)")
    return folder


@pytest.fixture
def beth_sample():
    return shared_folder("data", "beth-sample")


@pytest.fixture
def nsl_kdd_files():
    return shared_folder("data", "nsl-kdd")
