import shutil

import numpy as np
import pytest

from dl_mqtt_clients.data.beth import FEATURES, FILES, load_beth
from dl_mqtt_clients.data.synthesis import write_csv
from dl_mqtt_clients.errors import DataError

TRAIN = FILES["train"]


@pytest.fixture
def folder(tmp_path):
    """Files with BETH's columns, to be changed."""
    write_csv(tmp_path, rows=300)
    return tmp_path


def change(folder, line, column, value):
    """Replace one field; lines count from 1, the header being the first. Only unquoted columns."""
    path = folder / TRAIN
    lines = path.read_text().splitlines()
    fields = lines[line - 1].split(",")
    fields[lines[0].split(",").index(column)] = value
    lines[line - 1] = ",".join(fields)
    path.write_text("\n".join(lines) + "\n")


def test_the_real_files_prepared_as_usual(beth_sample):
    splits = load_beth(beth_sample)
    assert splits.train.features == FEATURES
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [100, 100, 100]
    # 381, parent 1, user 100, other mounts, prctl, 5 arguments, success; sus
    assert splits.train.x[0].tolist() == [1, 0, 0, 1, 157, 5, 0]
    # 7347, parent 7341, root, the host's mounts, access, 2 arguments, error
    assert splits.train.x[3].tolist() == [1, 1, 0, 0, 21, 2, 2]
    assert splits.train.groups[0] == "ip-10-100-1-120"
    assert splits.train.y.sum() == 100
    assert splits.test.y.sum() == 13
    assert load_beth(beth_sample, label="evil").train.y.sum() == 0


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [("processId", "2", 0), ("processId", "3", 1), ("parentProcessId", "0", 0), ("parentProcessId", "3", 1),
     ("userId", "999", 0), ("userId", "1000", 1), ("mountNamespace", "4026531840", 0), ("mountNamespace", "1", 1),
     ("eventId", "1010", 1010)],
)  # fmt: skip
def test_preparation(folder, column, value, expected):
    change(folder, 5, column, value)
    assert load_beth(folder).train.x[3, FEATURES.index(column)] == expected


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("7", 1), ("-2", 2), ("140662171848350", 1)])
def test_return_values_become_success_value_or_error(folder, value, expected):
    lines = (folder / TRAIN).read_text().splitlines()
    before_args = lines[1].split(',"[{')[0].split(",")
    old = ",".join(before_args)
    (folder / TRAIN).write_text("\n".join([lines[0], lines[1].replace(old, ",".join([*before_args[:-1], value]))]))
    assert load_beth(folder).train.x[0, -1] == expected


@pytest.mark.parametrize(
    ("line", "column", "value", "message"),
    [
        (1, "hostName", "hostname", r"expected a column 'hostName' \(did you mean 'hostname'\?\)"),
        (40, "eventId", "x257", "row 40, eventId: expected Int64. Received: 'x257'"),
        (41, "userId", "", "row 41, userId: expected Int64. Received: nothing"),
        (42, "processId", "1.5", "row 42, processId: expected Int64. Received: '1.5'"),
    ],
)
def test_errors_name_file_row_column_expected_and_received(folder, line, column, value, message):
    change(folder, line, column, value)
    with pytest.raises(DataError, match=f"{TRAIN}: {message}"):
        load_beth(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "expected a CSV or Parquet table"), (b"\x00\xff" * 500, "expected a column"), (None, "expected a file")],
)
def test_files_that_are_no_table(folder, content, message):
    (folder / TRAIN).unlink() if content is None else (folder / TRAIN).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load_beth(folder)
    assert str(error.value).isprintable()


def test_only_a_header_is_refused(folder):
    (folder / TRAIN).write_text((folder / TRAIN).read_text().splitlines()[0] + "\n")
    with pytest.raises(DataError, match="at least one row"):
        load_beth(folder)


def test_a_cut_file_names_the_row_that_is_cut(folder):
    text = (folder / TRAIN).read_text().splitlines()
    (folder / TRAIN).write_text("\n".join([*text[:30], text[30][:20]]))
    with pytest.raises(DataError, match="row 31"):
        load_beth(folder)


def test_a_host_is_one_text_however_many_rows_it_has(beth_sample, tmp_path):
    shutil.copytree(beth_sample, tmp_path, dirs_exist_ok=True)
    groups = load_beth(tmp_path).train.groups
    assert len({id(name) for name in groups}) == len(np.unique(groups.astype(str)))
