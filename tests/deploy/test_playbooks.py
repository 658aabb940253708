"""What ansible-lint does not look for: no shell, argument specs for all, and a playbook behind every target."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
ANSIBLE = ROOT / "deploy/ansible"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())


def load(path):
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def tasks(path):
    for task in load(path) or []:
        yield task
        for part in ("block", "always", "rescue"):
            yield from task.get(part, [])


@pytest.mark.parametrize("role", ROLES)
def test_nothing_asks_a_shell_and_a_command_says_why_no_module_does(role):
    for path in sorted((ANSIBLE / "roles" / role / "tasks").glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        assert not [t for t in tasks(path) if {"shell", "ansible.builtin.shell", "ansible.builtin.raw"} & t.keys()]
        commands = re.findall(r"ansible\.builtin\.command:(.*)", text)
        assert len([c for c in commands if "# no module" in c]) >= bool(commands), path


@pytest.mark.parametrize("role", ROLES)
def test_every_way_into_a_role_has_an_argument_spec(role):
    specified = set(load(ANSIBLE / "roles" / role / "meta/argument_specs.yaml")["argument_specs"])
    entered = {"main"} if (ANSIBLE / "roles" / role / "tasks/main.yaml").exists() else set()
    for path in ANSIBLE.glob("*.yaml"):
        entered |= set(re.findall(rf"name: {role}, tasks_from: (\w+)", path.read_text(encoding="utf-8")))
    assert entered <= specified


@pytest.mark.parametrize("role", ROLES)
def test_every_option_of_a_role_has_a_default(role):
    spec = load(ANSIBLE / "roles" / role / "meta/argument_specs.yaml")["argument_specs"]
    options = {name for entry in spec.values() for name in entry.get("options", {})}
    defaults = ANSIBLE / "roles" / role / "defaults/main.yaml"
    assert options <= set(load(defaults) if defaults.exists() else {})


def test_every_playbook_a_target_runs_is_there():
    played = re.findall(r"deploy/ansible/(\w+\.yaml)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(played) == 7
    assert [name for name in played if not (ANSIBLE / name).exists()] == []


def test_the_stack_gets_every_variable_that_it_cannot_do_without():
    given = load(ANSIBLE / "roles/stack/defaults/main.yaml")["stack_variables"]
    wanted = set(re.findall(r"\$\{(FEDLEARN_\w+)", (ROOT / "deploy/docker/stack.yaml").read_text(encoding="utf-8")))
    assert given.keys() <= wanted
    left = {"FEDLEARN_BROKER_URL", "FEDLEARN_MEMORY", "FEDLEARN_MANAGER_MEMORY", "FEDLEARN_BROKER_MEMORY"}
    assert wanted - given.keys() <= left
