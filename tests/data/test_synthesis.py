import csv

import numpy as np
import pytest

from dl_mqtt_clients.data.beth import FEATURES, FILES, load_beth
from dl_mqtt_clients.data.synthesis import HOSTS, synthesise, write_csv
from dl_mqtt_clients.errors import DataError

OFFICIAL_COLUMNS = [
    "timestamp", "processId", "threadId", "parentProcessId", "userId", "mountNamespace", "processName", "hostName",
    "eventId", "eventName", "stackAddresses", "argsNum", "returnValue", "args", "sus", "evil",
]  # fmt: skip


@pytest.fixture(scope="module")
def splits():
    return synthesise(rows=40_000)


def auroc(scores, anomalous):
    """Chance that an anomalous row scores above a normal one, ties half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = anomalous.sum()
    return (rank[anomalous].sum() - positives * (positives + 1) / 2) / (positives * (~anomalous).sum())


def scaled(splits):
    train = splits.train.normal().x
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / deviation, (splits.test.x - mean) / deviation


def untrained_errors(x, seed):
    """Reconstruction error of an autoencoder 7-64-16-64-7 as it is before training."""
    rng = np.random.default_rng(seed)
    out = x
    for rows, columns in ((7, 64), (64, 16), (16, 64), (64, 7)):
        limit = np.sqrt(6 / (rows + columns))
        out = out @ rng.uniform(-limit, limit, (rows, columns))
        out = np.maximum(out, 0) if columns != 7 else out
    return ((out - x) ** 2).mean(axis=1)


def test_an_untrained_model_does_not_find_the_attack(splits):
    _, test = scaled(splits)
    found = [auroc(untrained_errors(test, seed), splits.test.y > 0) for seed in range(15)]
    assert np.median(found) < 0.65
    assert auroc((test**2).sum(axis=1), splits.test.y > 0) < 0.65  # nor do unusual sizes tell


def test_what_goes_together_in_normal_rows_finds_it(splits):
    train, test = scaled(splits)
    _, _, axes = np.linalg.svd(train, full_matrices=False)
    learnt = axes[:5]
    error = ((test - test @ learnt.T @ learnt) ** 2).sum(axis=1)
    assert auroc(error, splits.test.y > 0) > 0.9


def test_parts_labels_and_features(splits):
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [26_800, 6_600, 6_600]
    assert splits.train.features == FEATURES
    assert 0 < splits.train.y.mean() < 0.01
    assert 0.2 < splits.test.y.mean() < 0.5


def test_eight_hosts_differ(splits):
    hosts, codes = np.unique(splits.train.groups.astype(str), return_inverse=True)
    assert set(hosts) == set(HOSTS) == set(splits.test.groups)
    contained = np.array([splits.train.x[codes == host, 3].mean() for host in range(8)])
    assert contained.max() - contained.min() > 0.4


def test_the_same_seed_gives_the_same_data_and_another_does_not():
    one, same, other = (synthesise(rows=2000, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.train.x, same.train.x)
    np.testing.assert_array_equal(one.test.y, same.test.y)
    assert (one.train.x != other.train.x).any()


@pytest.mark.parametrize("rows", [100, 101, 1000, 9999])
def test_any_number_of_rows_exactly(rows):
    splits = synthesise(rows=rows)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == rows


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="at least 100"):
        synthesise(rows=99)


def test_the_csv_files_have_the_official_columns_and_load_as_the_same_data(tmp_path):
    write_csv(tmp_path, rows=3000, seed=5)
    with (tmp_path / FILES["train"]).open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == OFFICIAL_COLUMNS
    assert all(row["args"].count("'name'") == int(row["argsNum"]) for row in rows)
    seconds = [float(row["timestamp"]) for row in rows]
    assert seconds == sorted(seconds)
    loaded, made = load_beth(tmp_path), synthesise(rows=3000, seed=5)
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(loaded, part).x, getattr(made, part).x)
        np.testing.assert_array_equal(getattr(loaded, part).y, getattr(made, part).y)
        assert getattr(loaded, part).groups.tolist() == getattr(made, part).groups.tolist()


def test_a_process_opens_before_it_reads_and_reads_before_it_closes(tmp_path):
    write_csv(tmp_path, rows=3000)
    with (tmp_path / FILES["train"]).open() as file:
        by_process = {}
        for row in csv.DictReader(file):
            by_process.setdefault((row["hostName"], row["processId"]), []).append(row["eventName"])
    readers = [events for (_, pid), events in by_process.items() if pid != "1" and events[:2] == ["openat", "fstat"]]
    assert len(readers) > 10
    complete = [events for events in readers if events[-1] == "close"]
    assert len(complete) > 0.8 * len(readers)
