"""The federated AUROC: predictors measure each version once on their labelled readings, the manager adds up."""

from collections import Counter

import numpy as np
import pytest

from dl_mqtt_clients.data.replay import encode_readings
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.wire.messages import Statistics
from service_helpers import readings, start_manager, trainers

ALL = {"rounds__target_updates": 3, "rounds__min_updates": 3}


@pytest.fixture
def measured(memory_url, new_settings, watch, connect):
    """A federation of three rounds with a predictor whose stream has labels: the manager, its reports, the sums."""
    settings = new_settings(memory_url, rounds__pause_s=0.3, **ALL)
    seen, feeder = watch(memory_url), connect(memory_url, "feeder")

    def feed(seed: int) -> None:
        normal = readings(seed, 64)
        odd = np.roll(normal, 1, axis=1)  # every value in its neighbour's place
        payload = encode_readings(np.concatenate([normal, odd]), np.array([0] * 64 + [1] * 64, np.int8))
        feeder.transport.publish("reading/p", payload)

    with trainers(settings), Predictor("p", settings=settings):
        seen.status("p", lambda s: s.readings.received or feed(1) or True, role="predictor")
        manager = start_manager(settings, rounds=3, on_round=lambda r: feed(r.round)).run()
    return manager, seen


def test_the_last_versions_auroc_is_waited_for(measured):
    manager, _ = measured
    assert manager.versions.production.number == 3
    assert manager.versions.production.metrics.auroc > 0.9


def test_a_version_is_measured_once_though_it_is_published_again_with_the_result(measured):
    _, seen = measured
    sums = seen.seen(seen.topics.statistics("p", "predictor"), Statistics)
    assert len(sums) >= 2
    assert set(Counter(s.version for s in sums).values()) == {1}
