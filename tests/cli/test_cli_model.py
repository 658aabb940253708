"""`fedlearn model build` and `fedlearn model inspect`."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.dataset import Dataset, Splits
from dl_mqtt_clients.errors import DataError
from dl_mqtt_clients.services.base_model import make_base_model, save_base_model

SMALL = ("--set", "data.rows=2000", "--set", "model.hidden=8,4,8")


def splits(*, y: np.ndarray, features: int = 3) -> Splits:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(y), features)).astype("f4") + 100.0 * y[:, None]
    part = Dataset(x.astype("f4"), y.astype("i1"), tuple("abc"[:features]))
    return Splits(train=part, validation=part, test=part)


def test_build_writes_the_base_model_and_says_what_it_is(run, tmp_path):
    result = run("model", "build", *SMALL, "--json")
    assert result.code == 0, result.err
    said = result.json
    assert said["folder"] == "artifacts/model"
    assert said["parameters"] == 14 + 64 + 36 + 40 + 63
    assert 0 < said["auroc"] < 1
    assert 0 < said["average_precision"] < 1
    files = {"architecture.json", "weights.safetensors", "scaler.json", "model.keras"}
    assert {path.name for path in (tmp_path / "artifacts" / "model").iterdir()} == files
    assert (tmp_path / "artifacts/model/weights.safetensors").stat().st_size == said["weights_bytes"]


def test_build_shows_a_summary_for_people(run):
    result = run("model", "build", *SMALL)
    assert result.code == 0
    for text in ("hidden_1", "Total params: 203", "baseline AUROC", "217 with the scaler's", "artifacts/model"):
        assert text in result.out, text


def test_the_same_seed_makes_the_same_model_and_another_another(run, tmp_path):
    def weights(seed: str) -> bytes:
        run("model", "build", *SMALL, "--set", f"federation.seed={seed}", "--artifacts", seed)
        return (tmp_path / seed / "model" / "weights.safetensors").read_bytes()

    assert weights("one") != weights("two")
    first = weights("one")
    assert weights("one") == first


def test_the_scaler_is_fitted_to_normal_rows_only():
    data = splits(y=np.array([0] * 50 + [1] * 50))
    base = make_base_model(Settings(), data)
    assert base.scaled_on == 50
    assert np.abs(base.model.scaler.offset).max() < 1.0
    everything = make_base_model(Settings().replace(**{"data.normal_only": False}), data)
    assert everything.scaled_on == 100
    assert everything.model.scaler.offset.min() > 40.0


@pytest.mark.parametrize(("scaling", "scale"), [("none", 1.0), ("minmax", None)])
def test_the_scaling_is_the_configured_one(scaling, scale):
    data = splits(y=np.zeros(50, int))
    scaler = make_base_model(Settings().replace(**{"model.scaling": scaling}), data).model.scaler
    scaled = scaler.apply(data.train.x)
    if scale is None:
        assert (float(scaled.min()), float(scaled.max())) == pytest.approx((0.0, 1.0), abs=1e-6)
    else:
        assert np.array_equal(scaled, data.train.x)


def test_categorical_features_get_an_input_for_each_value(run, tmp_path):
    rows = ["bytes,protocol,count", *(f"{i},{'tcp' if i % 3 else 'udp'},{i % 7}" for i in range(100))]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    words = ("--source", "table", "--data", "t.csv", "--set", "data.categorical=protocol", "--set", "vocabulary.size=4")
    built = run("model", "build", *words, "--set", "model.hidden=2", "--json")
    assert built.code == 0, built.err
    assert built.json["features"] == ["bytes", "protocol", "count"]
    shown = run("model", "inspect", "artifacts/model", "--json").json
    assert shown["variables"][3]["shape"] == [7, 2]
    assert shown["scaler"][1] == {"name": "protocol", "size": 4, "codes": [8703828, 9860979]}
    assert "2 of at most 4 values" in run("model", "inspect", "artifacts/model").out


def test_a_categorical_feature_must_be_one_of_the_data_s_and_hold_whole_numbers():
    data = splits(y=np.zeros(50, int))
    with pytest.raises(DataError, match=r"categorical: expected some of \['a', 'b', 'c'\]\. Received: \['d'\]"):
        make_base_model(Settings().replace(**{"data.categorical": ("a", "d")}), data)
    with pytest.raises(DataError, match="b: expected words, or whole numbers within"):
        make_base_model(Settings().replace(**{"data.categorical": ("b",)}), data)
    data.train.x[:, :2] = 1.0
    data.train.x[7, 1] = 2.0**25
    with pytest.raises(DataError, match="b: expected words, or whole numbers within"):
        make_base_model(Settings().replace(**{"data.categorical": ("a", "b")}), data)


@pytest.mark.parametrize(("classes", "outputs"), [(2, 1), (3, 3)])
def test_a_supervised_model_puts_out_probabilities(classes, outputs):
    settings = Settings().replace(**{"federation.task": "supervised"})
    base = make_base_model(settings, splits(y=np.arange(60) % classes))
    assert base.model.core.output_shape == (None, outputs)
    _, probabilities = base.model.predict(np.zeros((4, 3), "f4"))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_without_labels_the_baseline_is_unknown(run, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(100, 4)).astype("f4"))
    result = run("model", "build", "--source", "arrays", "--data", "x.npz")
    assert result.code == 0
    assert "unknown: the test part has no labels" in result.out


def test_without_normal_rows_there_is_nothing_to_learn_from():
    with pytest.raises(DataError, match="normal rows"):
        make_base_model(Settings(), splits(y=np.ones(20, int)))


def test_a_keras_file_of_ones_own_becomes_the_core(run, tmp_path):
    own_core(tmp_path / "own.keras", units=5)
    result = run("model", "build", *SMALL, "--set", "model.file=own.keras", "--json")
    assert result.code == 0, result.err
    assert result.json["parameters"] == 14 + 40 + 42


def test_a_base_folder_is_shown_with_variables_and_scaler(run):
    run("model", "build", *SMALL)
    said = run("model", "inspect", "artifacts/model", "--json").json
    assert (said["kind"], said["task"]) == ("base", "anomaly")
    assert [v["role"] for v in said["variables"]] == ["scaler"] * 2 + ["trainable"] * 8
    assert said["variables"][2]["shape"] == [7, 8]
    assert len(said["scaler"]) == 7
    assert json.loads(Path("artifacts/model/scaler.json").read_text())["features"] == said["scaler"]
    shown = run("model", "inspect", "artifacts/model").out
    for text in ("Total params", "trainable", "core/hidden_1/kernel", "processId", "offset"):
        assert text in shown, text


def test_an_exported_model_with_its_threshold_is_shown(run, tmp_path):
    base = make_base_model(Settings(), splits(y=np.zeros(20, int)))
    base.model.save(tmp_path / "m.keras", threshold=0.5)
    said = run("model", "inspect", "m.keras", "--json").json
    assert said["kind"] == "keras"
    assert {v["role"] for v in said["variables"]} == {"trainable"}


@pytest.mark.parametrize("name", ["nothing", "empty", "text.txt", "text.keras", "text/version.json"])
def test_what_is_no_model_is_refused_in_one_line(run, tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    for file in ("text.txt", "text.keras", "text/version.json"):
        (tmp_path / file).write_text("[1]")
    result = run("model", "inspect", name)
    assert (result.code, result.out) == (1, "")
    assert len(result.err.splitlines()) == 1
    assert name in result.err


def test_a_keras_file_with_code_is_refused_unopened(run, tmp_path, monkeypatch):
    import keras

    lambda_layer = keras.layers.Lambda(lambda x: x + 1)
    keras.Sequential([keras.Input((3,)), lambda_layer]).save(tmp_path / "code.keras")
    monkeypatch.setattr(keras.saving, "load_model", lambda *_a, **_k: pytest.fail("opened"))
    result = run("model", "inspect", "code.keras")
    assert result.code == 1
    assert "a Lambda holds code" in result.err


def test_a_keras_file_that_unpacks_to_too_much_is_refused_unread(run, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b" " * 20_000_000)
    result = run("model", "inspect", "bomb.keras")
    assert result.code == 1
    assert "unpacked" in result.err


def test_a_keras_file_with_more_parameters_than_allowed_is_refused(run, tmp_path):
    own_core(tmp_path / "own.keras", units=50)
    result = run("model", "inspect", "own.keras", "--set", "model.max_parameters=100")
    assert result.code == 1
    assert "at most 100 parameters" in result.err


def test_saving_goes_where_the_manager_looks(tmp_path):
    settings = Settings().replace(**{"artifacts.dir": str(tmp_path / "x")})
    folder = save_base_model(settings, make_base_model(settings, splits(y=np.zeros(20, int))))
    assert folder == tmp_path / "x" / "model"


def own_core(path: Path, *, units: int) -> Any:
    from dl_mqtt_clients.learning.builders import build_core

    build_core(n_features=7, hidden=(units,)).save(path)
