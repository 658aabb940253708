"""Filters of the playbooks: what Jinja cannot say in a line."""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

ROUNDS: Final = 101  # what mosquitto_passwd of Mosquitto 2 writes


def mosquitto_hash(password: str, user: str) -> str:
    """A line's second half in Mosquitto's password file (PBKDF2-SHA512).

    The same for the same user and password, so that a second run changes nothing; the salt is no secret.
    """
    salt = hashlib.sha256(f"mosquitto\n{user}\n{password}".encode()).digest()[:12]
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS)
    return f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def node_ids(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> list[str]:
    """Names of these hosts in the federation, also of hosts that do not answer."""
    return [hostvars[host].get("node_id") or re.sub(r"[^A-Za-z0-9_-]", "-", host) for host in hosts]


def that_know(hosts: Iterable[str], fact: str, hostvars: Mapping[str, Any]) -> list[str]:
    """Those of the hosts that answered, so that this fact of them is known."""
    return [host for host in hosts if fact in hostvars[host]]


def image_inputs(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What the images of these hosts are made of, each kind once; the same for every host that asks."""
    names = ("image_platform", "base_image", "keras_backend", "backend_extra")
    return sorted({tuple(str(hostvars[host].get(name) or "") for name in names) for host in hosts})


def manifest_entry(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An image's line in a manifest list, of what the registry answered about the image of platform `item`."""
    system, _, architecture = answer["item"].partition("/")
    return {
        "mediaType": answer["content_type"],
        "size": int(answer["content_length"]),
        "digest": answer["docker_content_digest"],
        "platform": {"os": system, "architecture": architecture},
    }


def node_line(node: dict[str, Any]) -> str:
    """`jetson-01  ready  active  train predict`, of what Docker says of a node."""
    labels = node["Spec"].get("Labels", {})
    roles = [label.removeprefix("fedlearn_") for label, value in sorted(labels.items()) if value == "true"]
    name = labels.get("fedlearn_node", node["Description"]["Hostname"])
    return f"{name}  {node['Status']['State']}  {node['Spec']['Availability']}  {' '.join(roles)}"


def task_line(task: dict[str, str]) -> str:
    """`fedlearn_trainer  jetson-01  Running 5 minutes ago`, of what Docker says of a task."""
    return f"{task['Name'].partition('.')[0]}  {task['Node']}  {task['CurrentState']}  {task['Error']}".rstrip()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "image_inputs": image_inputs,
            "manifest_entry": manifest_entry,
            "mosquitto_hash": mosquitto_hash,
            "node_ids": node_ids,
            "node_line": node_line,
            "task_line": task_line,
            "that_know": that_know,
        }
