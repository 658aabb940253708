import numpy as np
import polars as pl
import pytest

from dl_mqtt_clients.data.arrays import load_arrays
from dl_mqtt_clients.data.categories import category_code
from dl_mqtt_clients.data.tables import load_table
from dl_mqtt_clients.errors import DataError


def table(n=100, **columns):
    return pl.DataFrame({"a": np.arange(n) * 1.0, "b": np.arange(n), "device": ["p", "q"] * (n // 2), **columns})


def write(frame, path):
    frame.write_parquet(path) if path.suffix == ".parquet" else frame.write_csv(
        path, separator="\t" if path.suffix == ".tsv" else ","
    )
    return path


def whole(splits):
    """All rows of all parts by their value of `a`."""
    parts = (splits.train, splits.validation, splits.test)
    return dict(sorted((int(x[0]), int(y)) for part in parts for x, y in zip(part.x, part.y, strict=True)))


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_one_file_is_split_into_three_parts(tmp_path, ending):
    path = write(table(kind=[0, 1] * 50), tmp_path / f"rows{ending}")
    splits = load_table(path, label="kind", group="device")
    assert splits.train.features == ("a", "b")
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [70, 10, 20]
    assert whole(splits) == {row: row % 2 for row in range(100)}
    assert set(splits.test.groups) == {"p", "q"}


def test_a_folder_with_parts_is_taken_as_it_is(tmp_path):
    write(table(20), tmp_path / "my_train.csv")
    write(table(6), tmp_path / "my_test.csv")
    splits = load_table(tmp_path, features=["b"])
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [18, 2, 6]
    assert splits.train.y.tolist() == [-1] * 18
    assert splits.train.groups is None


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_categorical_columns_are_words_or_whole_numbers(tmp_path, ending):
    path = write(table(4, word=["tcp", "udp", "tcp", "größe"], event=[8, 8, -3, 0]), tmp_path / f"t{ending}")
    splits = load_table(path, categorical=["word", "event"], group="device", validation=0, test=0)
    assert splits.train.features == ("a", "b", "word", "event")
    assert splits.train.x[:, 2].tolist() == [category_code(word) for word in ("tcp", "udp", "tcp", "größe")]
    assert splits.train.x[:, 3].tolist() == [8, 8, -3, 0]
    chosen = load_table(path, features=["word", "a"], categorical=["word"], validation=0, test=0)
    assert chosen.train.x[0].tolist() == [category_code("tcp"), 0.0]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["normal", "dos", "probe", "Benign"], [0, 1, 1, 0]),
        (["cat", "dog", "bird", "cat"], [1, 2, 0, 1]),
        ([True, False, None, True], [1, 0, -1, 1]),
        ([0.0, 3.0, None, -4.0], [0, 3, -1, -1]),
        ([None, None, None, None], [-1, -1, -1, -1]),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_labels(tmp_path, labels, expected, ending):
    path = write(table(4, kind=labels), tmp_path / f"t{ending}")
    splits = load_table(path, features=["a"], label="kind", validation=0, test=0)
    assert splits.train.y.tolist() == expected


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (table(), {"label": "Device"}, r"t.csv: expected a column 'Device' \(did you mean 'device'\?\)"),
        (table(), {"features": ["device"]}, "row 2, device: expected Float64. Received: 'p'"),
        (table(kind=[0.5] * 100), {"label": "kind"}, "kind: expected classes from 0 to 127. Received: .'0.5'"),
        (table(kind=range(100, 200)), {"label": "kind"}, "kind: expected classes"),
        (table().with_columns(a=pl.lit(None, pl.Float64)), {"features": ["a"]}, "row 2, a: .* Received: nothing"),
        (pl.DataFrame({"device": ["p"]}), {}, "at least one numeric column"),
        (table(), {"categorical": ["Device"]}, r"expected a column 'Device' \(did you mean 'device'\?\)"),
        (table(odd=[0.5] * 100), {"categorical": ["odd"]}, "t.csv: odd: category: expected a word, or a whole number"),
        (table(odd=[None, "x"] * 50), {"categorical": ["odd"]}, "row 2, odd: .* Received: nothing"),
    ],
)  # fmt: skip
def test_errors_name_the_place(tmp_path, frame, options, message):
    with pytest.raises(DataError, match=message):
        load_table(write(frame, tmp_path / "t.csv"), **options)


def test_an_infinite_number_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1e300,3\n")
    with pytest.raises(DataError, match="a: expected finite numbers"):
        load_table(tmp_path / "t.csv")


def test_folders_that_cannot_be_told_apart(tmp_path):
    with pytest.raises(DataError, match="'train' in its name"):
        load_table(tmp_path)
    write(table(4), tmp_path / "train_1.csv")
    write(table(4), tmp_path / "train_2.csv")
    with pytest.raises(DataError, match="one train file"):
        load_table(tmp_path)


def test_a_parquet_file_that_is_none(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="expected a CSV or Parquet table"):
        load_table(tmp_path / "t.parquet")


def test_arrays(tmp_path):
    x = np.arange(200.0).reshape(100, 2)
    np.savez(tmp_path / "all.npz", x=x, y=np.arange(100) % 2)
    splits = load_arrays(tmp_path / "all.npz")
    assert len(whole(splits)) == 100
    assert splits.train.features == ("f0", "f1")
    np.savez(tmp_path / "parts.npz", x_train=x, x_test=x[:7], y_test=np.ones(7, int), features=["p", "q"])
    splits = load_arrays(tmp_path / "parts.npz")
    assert (splits.test.y.tolist(), len(splits.train), splits.train.features) == ([1] * 7, 90, ("p", "q"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"z": np.zeros(3)}, "expected an array 'x' or 'x_train'"),
        ({"x": np.zeros(3)}, "x: expected numbers"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1, 200])}, "y: expected classes"),
        ({"x": np.zeros((3, 2)), "y": np.array([0, 1])}, "x: expected"),
        ({"x": np.array([[print]])}, "plain arrays"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_arrays(tmp_path / "a.npz")


def test_a_file_that_is_no_archive(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(DataError, match="plain arrays"):
        load_arrays(tmp_path / "a.npz")
