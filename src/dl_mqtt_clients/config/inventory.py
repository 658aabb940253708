"""Checks an Ansible inventory before anything is touched: every mistake at once, with file and line.

Groups stand at the top or below all.children, hosts below a group's `hosts`, variables below `vars` or a host.
Variables of Ansible itself (`ansible_…`) and values that are templates ({{ … }}) are Ansible's to judge.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from dl_mqtt_clients.config.inventory_variables import FLEET_WIDE, FleetVariables
from dl_mqtt_clients.config.mistakes import FieldPath, Mistake, explain, unknown
from dl_mqtt_clients.config.words import received
from dl_mqtt_clients.config.yaml import Node, TextMistakeError, parse, read_text
from dl_mqtt_clients.errors import ConfigurationError

LEAVING: Final = ("decomissioned_workers", "decommissioned_workers")
GROUPS: Final = ("manager", "worker_train", "worker_predict", *LEAVING)

Found = tuple[int, Mistake]  # line (0: none) and what is wrong there


@dataclass
class _Inventory:
    """What was found: group -> host -> line, and every variable with its place in the file."""

    groups: dict[str, dict[str, int]] = field(default_factory=lambda: {group: {} for group in GROUPS})
    node_ids: dict[str, tuple[Any, int]] = field(default_factory=dict)
    mistakes: list[Found] = field(default_factory=list)


def check_inventory(path: Path) -> dict[str, list[str]]:
    """Group -> names of its hosts. ConfigurationError lists every mistake with its line."""
    found = _Inventory()
    try:
        root = parse(read_text(path))
    except TextMistakeError as error:
        found.mistakes.append((error.line, Mistake((path.name,), error.expected, error.received)))
    else:
        _top(root, found)
        found.mistakes += _together(found)
    if found.mistakes:
        lines = sorted(found.mistakes, key=lambda pair: pair[0])
        raise ConfigurationError([wrong.text(f"{path.name}:{line}" if line else path.name) for line, wrong in lines])
    return {group: list(hosts) for group, hosts in found.groups.items()}


def _top(root: Node, found: _Inventory) -> None:
    for name, node in _section((), root, found):
        if name == "all":
            for part, inner in _section((name,), node, found):
                if part == "children":
                    for group, members in _section((name, part), inner, found):
                        _group(group, (name, part), members, found)
                else:
                    _part("all", (name,), part, inner, found)
        else:
            _group(name, (), node, found)


def _group(name: str, above: FieldPath, node: Node, found: _Inventory) -> None:
    if name not in GROUPS:
        near = get_close_matches(name, GROUPS, 1, 0.6)
        words = f"one of the groups {', '.join(GROUPS[:4])}" + (f" (did you mean {near[0]}?)" if near else "")
        found.mistakes.append((node.line, Mistake((*above, name), words, repr(name[:100]))))
        return
    for part, inner in _section((*above, name), node, found):
        _part(name, (*above, name), part, inner, found)


def _part(group: str, above: FieldPath, part: str, node: Node, found: _Inventory) -> None:
    """`vars` or `hosts` of a group."""
    if part == "vars":
        _variables((*above, part), node, found, fleet=group in ("all", "manager"))
    elif part == "hosts":
        for host, variables in _section((*above, part), node, found):
            if group in found.groups:
                found.groups[group][host] = variables.line
            _variables((*above, part, host), variables, found, fleet=group == "manager", host=host)
    else:
        found.mistakes.append((node.line, Mistake((*above, part), "hosts or vars", repr(part[:100]))))


def _variables(above: FieldPath, node: Node, found: _Inventory, *, fleet: bool, host: str = "") -> None:
    given = {name: value for name, value in _section(above, node, found) if not name.startswith("ansible_")}
    values = {name: value.plain() for name, value in given.items() if not _is_template(value)}
    for name, value in given.items():
        if name not in FleetVariables.model_fields:
            wrong = unknown((name,), FleetVariables)
            wrong = Mistake((*above, name), wrong.expected.replace("field", "variable"), wrong.received)
            found.mistakes.append((value.line, wrong))
            values.pop(name, None)
        elif name in FLEET_WIDE and not fleet:
            words = "a variable of a host (this one is for all: all.vars)"
            found.mistakes.append((value.line, Mistake((*above, name), words, repr(name))))
    try:
        FleetVariables.model_validate(values)
    except ValidationError as error:
        for wrong in explain(error, FleetVariables):
            line = given[str(wrong.path[0])].line
            found.mistakes.append((line, Mistake((*above, *wrong.path), wrong.expected, wrong.received)))
    if host and "node_id" in values:
        found.node_ids[host] = (values["node_id"], given["node_id"].line)


def _together(found: _Inventory) -> Iterator[Found]:
    """What is wrong although each value is right."""
    managers, trainers = found.groups["manager"], found.groups["worker_train"]
    if len(managers) != 1:
        said = received(list(managers)) if managers else "none"
        yield max(managers.values(), default=0), Mistake(("manager",), "one host", said)
    if not trainers:
        yield 0, Mistake(("worker_train",), "at least one host", "none")
    for group in LEAVING:
        for host in managers.keys() & found.groups[group].keys():
            yield (
                found.groups[group][host],
                Mistake((group, host), "no manager (make destroy_docker_swarm)", repr(host)),
            )
    names: dict[Any, str] = {}
    for host in dict.fromkeys(host for group in GROUPS for host in found.groups[group]):
        name, line = found.node_ids.get(host, (host, 0))
        if name in names:
            words = f"a node_id of its own ({names[name]} has the same)"
            yield line or found.node_ids[names[name]][1], Mistake((host, "node_id"), words, received(name))
        names.setdefault(name, host)


def _section(above: FieldPath, node: Node, found: _Inventory) -> Iterator[tuple[str, Node]]:
    """The names and values below `node`; nothing is an empty section."""
    if isinstance(node.value, dict):
        yield from node.value.items()
    elif node.value is not None:
        found.mistakes.append((node.line, Mistake(above or ("inventory",), "a section", received(node.plain()))))


def _is_template(node: Node) -> bool:
    return isinstance(node.value, str) and "{{" in node.value
