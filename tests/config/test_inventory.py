"""The inventory is checked before anything is touched: every mistake at once, each with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.config.inventory import GROUPS, check_inventory
from dl_mqtt_clients.config.inventory_variables import FleetVariables
from dl_mqtt_clients.config.words import expected
from dl_mqtt_clients.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
RIGHT = """\
all:
  vars: {gpu: false, ansible_user: me, base_image: "{{ images[0] }}"}
  children:
    manager:
      hosts: {m: {ansible_connection: local, registry: "m:5000"}}
    worker_train:
      vars: {generator: true}
      hosts: {a: {address: 10.0.0.1}, b: }
    worker_predict:
      hosts: {a: }
    decommissioned_workers:
      hosts: {b: }
"""


@pytest.fixture
def mistakes(tmp_path):
    def check(text):
        file = tmp_path / "hosts.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigurationError) as caught:
            check_inventory(file)
        return caught.value.mistakes

    return check


def test_a_right_one_yields_its_groups(tmp_path):
    (tmp_path / "hosts.yaml").write_text(RIGHT, encoding="utf-8")
    groups = check_inventory(tmp_path / "hosts.yaml")
    assert groups["worker_train"] == ["a", "b"]
    assert groups["manager"] == ["m"]
    assert groups["decommissioned_workers"] == ["b"]


def test_the_committed_one_is_right():
    assert check_inventory(ROOT / "configuration/ansible/inventory.yaml")["manager"]


def test_groups_may_stand_at_the_top(tmp_path):
    (tmp_path / "hosts.yaml").write_text("manager: {hosts: {m: }}\nworker_train: {hosts: {a: }}\n", encoding="utf-8")
    assert check_inventory(tmp_path / "hosts.yaml")["worker_train"] == ["a"]


@pytest.mark.parametrize(
    ("old", "new", "said", "line"),
    [
        ("gpu: false", "gpu: often", "vars.gpu: expected true or false. Received: 'often'", 2),
        ("gpu: false", "gup: true", "a known variable (did you mean gpu?). Received: 'gup'", 2),
        ("generator: true", "generator: 1", "worker_train.vars.generator: expected true or false. Received: 1", 7),
        ("address: 10.0.0.1", 'address: "a b"', "expected an address or a host's name", 8),
        ("address: 10.0.0.1", "training_data: /etc/shadow", "a path below data_volume", 8),
        ("address: 10.0.0.1", "training_data: ../x", "a path below data_volume", 8),
        ("address: 10.0.0.1", "key_file: key.pem", "a path from / on", 8),
        ("address: 10.0.0.1", "broker_port: 1884", "a variable of a host", 8),
        ("address: 10.0.0.1", "image_platform: arm64", "one of linux/amd64, linux/arm64, or null", 8),
        ("address: 10.0.0.1", "node_id: b", "a node_id of its own (a has the same)", 8),
        ("registry: ", "broker_port: 0, registry: ", "an integer between 1 and 65535. Received: 0", 5),
        ('"m:5000"', "http://m", "host:port, or nothing. Received: 'http://m'", 5),
        ("worker_train:", "worker_trian:", "(did you mean worker_train?). Received: 'worker_trian'", 6),
        ("hosts: {m:", "host: {m:", "expected hosts or vars. Received: 'host'", 5),
        ("hosts: {b: }", "hosts: {m: }", "expected no manager", 12),
        ("{a: {address: 10.0.0.1}, b: }", "[a, b]", "expected a section. Received: ['a', 'b']", 8),
        ("hosts: {m:", "hosts: {n: , m:", "manager: expected one host. Received: ['n', 'm']", 5),
    ],
)
def test_a_mistake_is_told_with_its_line(mistakes, old, new, said, line):
    assert RIGHT.count(old) == 1
    hits = [text for text in mistakes(RIGHT.replace(old, new)) if said in text]
    assert len(hits) == 1, hits
    assert hits[0].endswith(f"(hosts.yaml:{line})")


def test_all_mistakes_come_at_once_in_the_order_of_the_file(mistakes):
    wrong = RIGHT.replace("gpu: false", "gpu: 3").replace("generator: true", "generator: 3").replace("m:5000", "///")
    lines = [text.rpartition(":")[2] for text in mistakes(wrong)]
    assert lines == ["2)", "5)", "7)"]


def test_an_empty_one_lacks_manager_and_trainers(mistakes):
    assert [text.split(":")[0] for text in mistakes("")] == ["manager", "worker_train"]


@given(text=st.text(max_size=200) | st.sampled_from(GROUPS).map(lambda g: f"{g}: {{hosts: 3}}"))
def test_nothing_but_a_configuration_error_comes_of_any_text(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("inventory") / "hosts.yaml"
    file.write_text(text, encoding="utf-8", errors="ignore")
    with pytest.raises(ConfigurationError):
        check_inventory(file)


def test_every_variable_is_in_the_reference_with_its_words_and_default():
    page = (ROOT / "docs/reference/inventory.md").read_text(encoding="utf-8")
    for name, field in FleetVariables.model_fields.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert f"| {field.description} | {expected(field).removesuffix(', or null')} |" in row
        assert str(field.default).lower().removeprefix("none").removeprefix("{}") in row
