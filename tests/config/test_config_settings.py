"""Settings as Python values, and the rules between fields."""

import socket

import pytest
from pydantic import ValidationError

import dl_mqtt_clients.config as package
from dl_mqtt_clients.config import (
    BrokerSettings,
    NodeSettings,
    RoundSettings,
    Settings,
    TrainingSettings,
    load_settings,
)
from dl_mqtt_clients.errors import ConfigurationError


def test_the_public_names_are_these():
    sections = {type(getattr(Settings(), name)).__name__ for name in Settings.model_fields}
    inner = {"EarlyStoppingSettings", "ReduceOnPlateauSettings"}
    assert set(package.__all__) == sections | inner | {"Settings", "load_settings", "render_settings"}


def test_settings_are_frozen_comparable_and_hashable():
    settings = Settings(training=TrainingSettings(epochs=2))
    with pytest.raises(ValidationError):
        settings.training.epochs = 3
    assert settings == Settings().replace(**{"training.epochs": 2})
    assert hash(settings) == hash(Settings().replace(**{"training.epochs": 2}))
    assert settings != Settings()


def test_a_wrong_value_from_python_is_a_configuration_error_with_all_mistakes():
    with pytest.raises(ConfigurationError) as caught:
        TrainingSettings(epochs=0, batch_size="x", epoch=1)
    assert caught.value.mistakes == [
        "epochs: expected an integer ≥ 1. Received: 0",
        "batch_size: expected an integer ≥ 1. Received: 'x'",
        "epoch: expected a known field (did you mean epochs?). Received: 'epoch'",
    ]


def test_replace_checks_names_values_and_rules_and_keeps_the_rest():
    settings = Settings(node=NodeSettings(id="a"), broker=BrokerSettings(password="p"))
    changed = settings.replace(training=TrainingSettings(epochs=5), **{"training.early_stopping.enabled": True})
    assert changed.training.epochs == 5
    assert changed.training.early_stopping.enabled
    assert (changed.node.id, changed.broker.read_password()) == ("a", "p")
    for name, value in {
        "training.epoch": 1,
        "training.epochs": 0,
        "training.epochs.x": 1,
        "rounds.min_updates": 0,
    }.items():
        with pytest.raises(ConfigurationError, match=name):
            settings.replace(**{name: value})
    with pytest.raises(ConfigurationError, match=r"rounds\.min_updates: expected at most rounds\.target_updates"):
        settings.replace(rounds=RoundSettings(target_updates=1, min_updates=2))


@pytest.mark.parametrize(
    ("host", "name"),
    [("jetson-07", "jetson-07"), ("jetson.lab.example", "jetson-lab-example"), ("é!", "node"), ("x" * 70, "x" * 64)],
)
def test_without_an_id_a_node_is_called_as_its_host(monkeypatch, host, name):
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert Settings().node_id == name
    assert Settings(node=NodeSettings(id="mine")).node_id == "mine"


def test_a_broker_url_is_taken_apart():
    plain, tls = BrokerSettings(url="mqtt://[::1]"), BrokerSettings(url="mqtts://broker.example:8884")
    assert (plain.host, plain.port, plain.tls) == ("::1", 1883, False)
    assert (tls.host, tls.port, tls.tls) == ("broker.example", 8884, True)
    assert BrokerSettings(url="mqtts://broker").port == 8883


def test_a_password_file_gives_its_first_line(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret\nnot this\n")
    assert BrokerSettings(password_file=str(file)).read_password() == "secret"
    file.write_text("")
    assert BrokerSettings(password_file=str(file)).read_password() == ""
    with pytest.raises(ConfigurationError, match=r"password_file: expected a readable text file\. Received: .*missing"):
        BrokerSettings(password_file=str(tmp_path / "missing")).read_password()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rounds:\n  min_updates: 3\n  target_updates: 2\n",
            "rounds.min_updates: expected at most rounds.target_updates, which is 2. Received: 3 (f.yaml:2)",
        ),
        (
            "readings:\n  buffer: 100\n",
            "training.min_readings: expected at most readings.buffer, which is 100. Received: 256 (f.yaml:2)",
        ),
        (
            "broker:\n  cert_file: c.pem\n  url: mqtts://a\n",
            "broker.key_file: expected a file, since broker.cert_file is given. Received: '' (f.yaml:2)",
        ),
        (
            "data_broker:\n  ca_file: c.pem\n",
            (
                "data_broker.url: expected mqtts://, since data_broker.ca_file is given. "
                "Received: 'mqtt://localhost:1883' (f.yaml:2)"
            ),
        ),
        (
            "broker:\n  password: p\n  password_file: f\n",
            "broker.password_file: expected nothing when broker.password is given. Received: 'f' (f.yaml:3)",
        ),
        (
            "data:\n  source: beth\n",
            "data.path: expected a path, since data.source is beth. Received: '' (f.yaml:2)",
        ),
        (
            "data: {source: table, path: x,\n  partition: group}\n",
            "data.group: expected a column, since data.partition is group. Received: '' (f.yaml:2)",
        ),
        (
            "generator:\n  anomalous_s: 5\n",
            "generator.normal_s: expected a number > 0, since generator.anomalous_s is given. Received: 0.0 (f.yaml:2)",
        ),
    ],
)
def test_fields_that_do_not_fit_together_are_named_with_their_line(tmp_path, text, said):
    path = tmp_path / "f.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ={})
    assert caught.value.mistakes == [said]


def test_rules_are_reported_beside_wrong_values_but_not_about_them(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("rounds:\n  min_updates: 3\n  target_updates: 2\nreadings:\n  buffer: 0\ntraining:\n  epochs: 0\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ={})
    assert [line.split(":")[0] for line in caught.value.mistakes] == [
        "rounds.min_updates",
        "readings.buffer",
        "training.epochs",
    ]
