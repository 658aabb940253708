"""`python -m tests.cluster.lab COMMAND`, as root."""

import argparse
import json
import os
import sys

from . import lab
from .node import Node, nodes
from .shell import LabError, step


def _up(options):
    with lab.alone():
        for node in lab.up(options.count):
            print(f"{node.name} {node.ip}")


def _down(options):
    with lab.alone():
        lab.down(purge=options.purge)


def _status(_options):
    for node in nodes():
        print(f"{node.name:8}{node.ip:13}{'on' if node.pid() else 'off'}")


def _inventory(options):
    names = [node.name for node in nodes()]
    groups = {
        "manager": names[:1],
        "worker_train": options.train or names[1:],
        "worker_predict": options.predict or names[1:],
        "decomissioned_workers": options.decommissioned,
    }
    print(json.dumps(lab.inventory(groups), indent=2))  # JSON is YAML


def _exec(options):
    node = Node(options.node)
    words = node.command(*(options.words or ["bash", "-l"]))
    node.cgroups.join()
    os.chdir("/")
    os.execvp(words[0], words)


def _base_image(options):
    with lab.alone():
        print(lab.load_base_image(Node(options.node)))


def _kill(options):
    node = Node(options.node)
    if options.power:
        node.power_off()
    else:
        node.kill_docker()


def _start(options):
    with step(options.node):
        Node(options.node).start()


def _plug(options):
    Node(options.node).plug(on=options.verb == "plug")


def _parser():
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.lab", description="Several Docker machines.")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def command(verb, function, text):
        sub = commands.add_parser(verb, help=text, description=text)
        sub.set_defaults(function=function)
        return sub

    def on_node(verb, function, text, **settings):
        sub = command(verb, function, text)
        sub.add_argument("node", metavar="NODE", **settings)
        return sub

    command("up", _up, "make and start N nodes").add_argument("count", type=int, metavar="N", choices=range(1, 31))
    command("down", _down, "remove it all").add_argument("--purge", action="store_true", help="also the cache")
    command("status", _status, "one line a node")
    groups = command("inventory", _inventory, "node1 manages, the others train and predict unless said")
    for group in ("train", "predict", "decommissioned"):
        groups.add_argument(f"--{group}", type=lambda text: text.split(","), default=[], metavar="NODE,NODE")
    execute = on_node("exec", _exec, "run a command there as root (a shell without one)")
    execute.add_argument("words", nargs=argparse.REMAINDER)
    on_node("base-image", _base_image, "load Debian 12 + Python 3.11 as an image (node1)", nargs="?", default="node1")
    kill = on_node("kill", _kill, "kill -9 of dockerd; containers run on")
    kill.add_argument("--power", action="store_true", help="everything there: a power cut")
    on_node("start", _start, "start dockerd, or the whole node, again")
    on_node("unplug", _plug, "take its network cable out")
    on_node("plug", _plug, "put its network cable in")
    return parser


def main():
    if os.geteuid():
        raise LabError("the lab needs root")
    options = _parser().parse_args()
    options.function(options)


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"lab: {error}")
