"""Filters of the playbooks, against what they are for: a real Mosquitto, a real registry's words."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brokers import Mosquitto

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("fleet_filters", ROOT / "deploy/ansible/filter_plugins/fedlearn.py")
filters = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(filters)

_text = st.text(min_size=1, max_size=40)


def test_mosquitto_lets_in_who_has_the_password_and_nobody_else(tmp_path, connect):
    users = {"manager": "one", "jetson-1/trainer": "two"}
    file = tmp_path / "passwd"
    file.write_text("".join(f"{u}:{filters.mosquitto_hash(p, u)}\n" for u, p in users.items()), encoding="ascii")
    file.chmod(0o644)
    with Mosquitto(tmp_path / "broker", conf=f"password_file {file}", anonymous=False) as broker:
        for user, password in users.items():
            assert connect(broker.url, user.partition("/")[0], username=user, password=password).connections == 1
        stranger = connect(broker.url, "stranger", username="manager", password="two", wait=False)
        stranger.wait(lambda: stranger.reasons, "refusal")
        assert stranger.connections == 0


@given(password=_text, user=_text, other=_text)
def test_a_hash_is_the_same_each_time_and_another_for_another_password(password, user, other):
    assert filters.mosquitto_hash(password, user) == filters.mosquitto_hash(password, user)
    assert (filters.mosquitto_hash(other, user) == filters.mosquitto_hash(password, user)) == (other == password)


def test_a_node_is_named_after_its_host_unless_the_inventory_says_otherwise():
    hostvars = {"a.b": {}, "c": {"node_id": "press"}, "d": {"node_id": None}}
    assert filters.node_ids(["a.b", "c", "d"], hostvars) == ["a-b", "press", "d"]


def test_hosts_that_did_not_answer_build_nothing():
    assert filters.that_know(["a", "b"], "platform", {"a": {}, "b": {"platform": "linux/arm64"}}) == ["b"]


@given(st.permutations(["a", "b", "c"]))
def test_every_host_finds_the_same_inputs_of_the_images(hosts):
    hostvars = {"a": {"base_image": "x"}, "b": {}, "c": {"base_image": "x"}}
    assert filters.image_inputs(hosts, hostvars) == [("", "", "", ""), ("", "x", "", "")]


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_a_line_of_a_manifest_list_says_what_the_registry_said(architecture):
    answer = {
        "item": f"linux/{architecture}",
        "content_type": "application/vnd.docker.distribution.manifest.v2+json",
        "content_length": "1573",
        "docker_content_digest": "sha256:ab",
    }
    entry = filters.manifest_entry(answer)
    assert (entry["size"], entry["digest"]) == (1573, "sha256:ab")
    assert entry["platform"] == {"os": "linux", "architecture": architecture}


def test_a_nodes_line_shows_what_runs_there():
    node = {
        "Spec": {"Availability": "active", "Labels": {"fedlearn_node": "a", "fedlearn_train": "true", "other": "x"}},
        "Status": {"State": "ready"},
        "Description": {"Hostname": "h"},
    }
    assert filters.node_line(node) == "a  ready  active  train"
