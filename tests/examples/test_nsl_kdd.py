"""The NSL-KDD example reaches what its page says."""

import runpy
from pathlib import Path

import pytest

FEDERATE = Path(__file__).parents[2] / "examples" / "nsl_kdd" / "federate.py"


@pytest.mark.slow
def test_four_nodes_with_other_services_each_find_the_attacks_of_all(nsl_kdd_files, mosquitto, tmp_path):
    federate = runpy.run_path(str(FEDERATE))["federate"]
    aurocs = federate(nsl_kdd_files, broker=mosquitto.url, rounds=20, folder=tmp_path)
    assert len(aurocs) == 20
    assert aurocs[-1] >= 0.93
