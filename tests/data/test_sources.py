import numpy as np
import pytest

from dl_mqtt_clients.config import DataSettings
from dl_mqtt_clients.data.sources import detect, load, load_configured
from dl_mqtt_clients.data.synthesis import synthesise, write_csv
from dl_mqtt_clients.errors import DataError


def test_synthetic_data_needs_no_path():
    splits = load("synthetic", rows=500, seed=2, features=["eventId", "userId"])
    made = synthesise(rows=500, seed=2)
    assert splits.train.features == ("eventId", "userId")
    np.testing.assert_array_equal(splits.train.x, made.train.x[:, [4, 2]])


def test_kinds_are_told_by_their_files(tmp_path):
    for name in ("beth", "table"):
        (tmp_path / name).mkdir()
    write_csv(tmp_path / "beth", rows=300)
    (tmp_path / "table" / "mine.csv").write_text("a,b\n1,2\n3,4\n")
    np.savez(tmp_path / "mine.npz", x=np.zeros((9, 2)))
    assert detect(tmp_path / "beth") == "beth"
    assert detect(tmp_path / "table") == detect(tmp_path / "table" / "mine.csv") == "table"
    assert detect(tmp_path / "mine.npz") == "arrays"
    for kind, name in (("beth", "beth"), ("table", "table"), ("arrays", "mine.npz")):
        assert len(load(kind, tmp_path / name).train) > 0


def test_nsl_kdd_is_told_by_its_files(nsl_kdd_files):
    assert detect(nsl_kdd_files) == "nsl_kdd"
    splits = load("nsl_kdd", nsl_kdd_files, rows=1000)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [1000, 1000, 1000]
    assert 0.3 < splits.test.y.mean() < 0.8  # spread over the file, not its head


@pytest.mark.parametrize("name", ["", "absent"])
def test_nothing_known_is_said(tmp_path, name):
    with pytest.raises(DataError, match="expected BETH's or NSL-KDD's files"):
        detect(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("beth",), {}, "expected the path of a beth data set"),
        (("table", "/absent"), {}, "'/absent', which is not there"),
        (("synthetic",), {"features": ["x"]}, "features: expected some of"),
        (("beth", "."), {"label": "bad"}, "expected sus or evil. Received: 'bad'"),
        (("other", "."), {}, "source: expected synthetic"),
    ],
)
def test_what_cannot_be_loaded(arguments, options, message):
    with pytest.raises(DataError, match=message):
        load(*arguments, **options)


def test_the_configuration_names_the_data(tmp_path):
    write_csv(tmp_path, rows=300)
    splits = load_configured(DataSettings(source="beth", path=str(tmp_path), label="evil", rows=10))
    assert len(splits.train) == 10
    assert splits.train.y.sum() == 0
