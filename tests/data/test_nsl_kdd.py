import numpy as np
import pytest

from dl_mqtt_clients.data.categories import category_code
from dl_mqtt_clients.data.nsl_kdd import COLUMNS, NUMBERS, TEST_FILE, load_nsl_kdd
from dl_mqtt_clients.errors import DataError


def line(*, service="http", flag="SF", src_bytes="0", label="normal"):
    given = {"protocol_type": "tcp", "service": service, "flag": flag, "src_bytes": src_bytes, "label": label}
    return ",".join(given.get(column, "0") for column in COLUMNS)


def write(folder, train, test):
    (folder / "KDDTrain+.txt").write_text("\n".join(train) + "\n")
    (folder / TEST_FILE).write_text("\n".join(test) + "\n")


def test_real_files(nsl_kdd_files):
    splits = load_nsl_kdd(nsl_kdd_files)
    assert len(splits.train) + len(splits.validation) == 25_192
    assert (len(splits.test), int(splits.test.y.sum())) == (22_544, 12_833)
    assert splits.train.x.shape[1] == splits.test.x.shape[1] == 121
    assert set(splits.train.groups) >= {"http", "private"}


def test_numbers_are_logarithms_and_categories_columns(tmp_path):
    write(
        tmp_path,
        [line(src_bytes="100"), line(service="other", label="neptune")],
        [line(service="unheard", flag="S0"), line()],
    )
    splits = load_nsl_kdd(tmp_path, validation=0.0)
    features = splits.train.features
    assert features[:38] == NUMBERS
    assert features[38:] == (
        "protocol_type=tcp", "protocol_type=<other>", "service=http", "service=other", "service=<other>", "flag=SF",
        "flag=<other>",
    )  # fmt: skip
    assert splits.train.x[0, features.index("src_bytes")] == pytest.approx(np.log(101))
    assert splits.train.x[1, 38:].tolist() == [1, 0, 0, 1, 0, 1, 0]
    assert splits.test.x[0, 38:].tolist() == [1, 0, 0, 0, 1, 0, 1]
    assert (splits.train.y.tolist(), splits.train.groups.tolist()) == ([0, 1], ["http", "other"])


def test_categorical_columns_hold_the_codes_of_their_words(tmp_path):
    write(tmp_path, [line(), line(service="other")], [line(service="unheard", flag="S0")])
    splits = load_nsl_kdd(tmp_path, categorical=("service", "flag"), validation=0.0)
    assert splits.train.features[38:] == ("protocol_type=tcp", "protocol_type=<other>", "service", "flag")
    assert splits.train.x[:, 40].tolist() == [category_code("http"), category_code("other")]
    assert splits.test.x[0, 40:].tolist() == [category_code("unheard"), category_code("S0")]


def test_errors_name_the_place(tmp_path):
    with pytest.raises(DataError, match="KDDTrain"):
        load_nsl_kdd(tmp_path)
    write(tmp_path, [line(), line(src_bytes="many")], [line()])
    with pytest.raises(DataError, match=r"KDDTrain\+.txt: row 2, src_bytes: expected Float64. Received: 'many'"):
        load_nsl_kdd(tmp_path)
    write(tmp_path, [line()], [line() + ",1"])
    with pytest.raises(DataError, match=r"KDDTest\+.txt: expected 43 columns. Received: 44"):
        load_nsl_kdd(tmp_path, validation=0.0)
