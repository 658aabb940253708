"""Every strategy, codec and mode can be asked for in YAML, as a flag, in the environment and in Python."""

import pytest

from dl_mqtt_clients.aggregation.strategies import read_strategy, registry
from dl_mqtt_clients.cli.configuration import check
from dl_mqtt_clients.config import Settings, load_settings
from dl_mqtt_clients.errors import ConfigurationError
from dl_mqtt_clients.services.from_settings import check_rules
from dl_mqtt_clients.wire.codecs import CODECS

ARGUMENTS = {"TrimmedMean": "(share=0.1)", "Krum": "(f=1)", "MultiKrum": "(f=1, m=2)", "Bulyan": "(f=1)"}
STRATEGIES = [name + ARGUMENTS.get(name, "") for name in registry.PARTS]
WISHES = [
    *[("rounds.strategy", text) for text in STRATEGIES],
    *[("transfer.codec", name.replace("<share>", "0.01")) for name in CODECS],
    *[("rounds.mode", mode) for mode in ("sync", "async")],
    ("training.objective", "FedProx(mu=0.01)"),
]


def in_yaml(field, value, folder):
    section, name = field.split(".")
    (folder / "file.yaml").write_text(f"{section}:\n  {name}: {value}\n")
    return load_settings(folder / "file.yaml", environ={})


def as_a_flag(field, value, _folder):
    return load_settings(None, overrides=[f"{field}={value}"], environ={})


def in_the_environment(field, value, _folder):
    return load_settings(None, environ={"FEDLEARN_" + field.upper().replace(".", "__"): value})


def in_python(field, value, _folder):
    return Settings().replace(**{field: value})


@pytest.mark.parametrize("way", [in_yaml, as_a_flag, in_the_environment, in_python])
@pytest.mark.parametrize(("field", "value"), WISHES)
def test_it_can_be_asked_for(field, value, way, tmp_path):
    settings = way(field, value, tmp_path)
    section, name = field.split(".")
    assert getattr(getattr(settings, section), name) == value
    check_rules(settings)


@pytest.mark.parametrize("way", [in_yaml, as_a_flag, in_the_environment, in_python])
def test_what_there_is_not_is_a_mistake(way, tmp_path):
    with pytest.raises(ConfigurationError, match=r"rounds.strategy: expected one of .*did you mean Median"):
        check_rules(way("rounds.strategy", "Medan", tmp_path))


def test_the_command_checks_a_strategy_and_names_what_is_wrong(tmp_path):
    (tmp_path / "plant.yaml").write_text("rounds:\n  strategy: FedAvg @ Krum(f=2) @ ClipNorm(1.0)\n")
    (tmp_path / "wrong.yaml").write_text("rounds:\n  strategy: FedAvg @ Krum(f=-2)\n")
    check(config=tmp_path / "plant.yaml")
    with pytest.raises(ConfigurationError, match=r"Krum.f: expected an integer ≥ 0. Received: -2"):
        check(config=tmp_path / "wrong.yaml")


def test_the_default_strategy_is_one():
    assert str(read_strategy(Settings().rounds.strategy)) == "FedAvg(lr=1.0) @ Mean() @ MedianClip(factor=3.0)"
