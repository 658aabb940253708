"""A short one of `benchmarks.chaos`: broker, manager and trainers, as processes, killed (-9) by lot."""

import pytest
from benchmarks.chaos import federate
from benchmarks.common import mosquitto_binary

ROUNDS = 6


@pytest.mark.slow
@pytest.mark.timeout(700)  # half a minute on a quiet machine; starting processes takes most of it
def test_whatever_is_killed_the_weights_are_those_of_an_undisturbed_run_bit_by_bit(tmp_path):
    """And every update with a receipt is in exactly one version, computed again from what the trainers kept."""
    broker = "mosquitto" if mosquitto_binary() else "embedded"
    quiet = federate("fixed", broker, rounds=ROUNDS, seed=None, keep=tmp_path / "quiet", seconds=300)
    killed = federate("fixed", broker, rounds=ROUNDS, seed=4, keep=tmp_path / "killed", seconds=300)
    assert (quiet.wrong, killed.wrong) == ([], [])
    assert sum(killed.kills.values()) >= 2
    assert killed.found.rounds == quiet.found.rounds == ROUNDS
    assert killed.found.version == quiet.found.version
    assert killed.found.merged == killed.found.receipts == 4 * ROUNDS
