"""`fedlearn config`: all mistakes at once, effective values, no passwords."""

from pathlib import Path

import pytest

from dl_mqtt_clients.cli.configuration import HIDDEN
from dl_mqtt_clients.config import Settings, load_settings

WRONG = "training:\n  epochs: many\nrounds:\n  fraction: 2.0\nfederaton:\n  name: x\n"


@pytest.fixture
def default_file(tmp_path: Path) -> Path:
    path = tmp_path / "configuration" / "federated_learning" / "federated_learning.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("training:\n  epochs: 7\n")
    return path


def test_a_configuration_without_mistakes_exits_0(run, tmp_path):
    (tmp_path / "a.yaml").write_text("training:\n  epochs: 3\n")
    result = run("config", "check", "--config", "a.yaml")
    assert (result.code, result.out) == (0, "a.yaml: no mistakes\n")


def test_every_mistake_is_a_line_and_the_exit_code_is_2(run, tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text(WRONG)
    monkeypatch.setenv("FEDLEARN_NODE__ID", "no spaces")
    result = run("config", "check", "--config", "a.yaml", "--set", "training.batch_size=0")
    lines = result.err.splitlines()
    assert result.code == 2
    assert result.out == ""
    assert len(lines) == 5
    for place in ("(a.yaml:2)", "(a.yaml:4)", "(a.yaml:5)", "FEDLEARN_NODE__ID", "(--set training.batch_size)"):
        assert sum(place in line for line in lines) == 1, place
    assert all("expected" in line and "Received" in line for line in lines)


def test_the_mistakes_are_json_too(run, tmp_path):
    (tmp_path / "a.yaml").write_text(WRONG)
    result = run("config", "check", "--config", "a.yaml", "--json")
    assert result.code == 2
    assert result.json["ok"] is False
    assert len(result.json["mistakes"]) == 3
    assert run("config", "check", "--json").json == {"file": None, "ok": True, "mistakes": []}


@pytest.mark.parametrize("command", ["manager", "train", "predict", "generate", "status", "model build"])
def test_every_command_that_reads_settings_lists_all_mistakes(run, command, tmp_path):
    (tmp_path / "a.yaml").write_text(WRONG)
    result = run(*command.split(), "--config", "a.yaml")
    assert result.code == 2
    assert len(result.err.splitlines()) == 3


def test_a_mistake_names_the_option_that_was_written(run):
    result = run("train", "--broker", "http://x", "--log-level", "loud", "--node", "a b")
    assert result.code == 2
    assert {line.rpartition(" (")[2] for line in result.err.splitlines()} == {"--broker)", "--node)", "--log-level)"}


def test_the_default_file_is_read_where_it_exists(run, default_file):
    assert run("config", "show", "--json").json["training"]["epochs"] == 7
    default_file.unlink()
    assert run("config", "show", "--json").json["training"]["epochs"] == Settings().training.epochs


def test_an_option_wins_over_the_environment_over_the_file(run, default_file, monkeypatch):
    def shown(*args: str) -> tuple[str, ...]:
        line = next(line for line in run("config", "show", *args).out.splitlines() if "training.epochs" in line)
        return tuple(line.split(maxsplit=2))

    assert shown() == ("training.epochs", "7", "federated_learning.yaml:2")
    monkeypatch.setenv("FEDLEARN_TRAINING__EPOCHS", "8")
    assert shown() == ("training.epochs", "8", "environment FEDLEARN_TRAINING__EPOCHS")
    assert shown("--set", "training.epochs=9") == ("training.epochs", "9", "--set training.epochs")


def test_the_file_may_be_named_by_the_environment(run, tmp_path, monkeypatch):
    (tmp_path / "b.yaml").write_text("training:\n  epochs: 4\n")
    monkeypatch.setenv("FEDLEARN_CONFIG", str(tmp_path / "b.yaml"))
    assert run("config", "show", "--json").json["training"]["epochs"] == 4


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_passwords_are_never_shown(run, form, monkeypatch):
    monkeypatch.setenv("FEDLEARN_BROKER__PASSWORD", "s3cret-one")
    result = run("config", "show", "--set", "data_broker.password=s3cret-two", *form)
    assert result.code == 0
    assert "s3cret" not in result.out + result.err
    assert result.out.count(HIDDEN) == 2


def test_every_setting_is_shown_once(run):
    from dl_mqtt_clients.config.mistakes import dotted, leaves

    names = [line.split()[0] for line in run("config", "show").out.splitlines()]
    assert names == [dotted(path) for path, _ in leaves(Settings)]


def test_the_example_holds_the_defaults(run, tmp_path):
    (tmp_path / "c.yaml").write_text(run("config", "example").out)
    assert load_settings(tmp_path / "c.yaml", environ={}) == Settings()
    assert run("config", "example", "--json").json["training"]["epochs"] == Settings().training.epochs
