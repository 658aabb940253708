"""The network between the nodes: a bridge, and a firewall that keeps them off private networks."""

import re
import shutil
from pathlib import Path
from typing import Final

from .places import NAME, PREFIX
from .shell import run, works, write

BRIDGE: Final = f"{NAME}0"
_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")
_LABS: Final = Path("/run/fedlearn-labs")  # a file a lab that is up; `before`: how forwarding was without any
_PRIVATE: Final = "10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16, 224.0.0.0/3"
_FIREWALL: Final = """table ip {name} {{}}
delete table ip {name}
table ip {name} {{
  chain forward {{
    type filter hook forward priority filter;
    iifname != "{bridge}" accept
    oifname "{bridge}" accept
    ip daddr {{ {resolvers} }} meta l4proto {{ tcp, udp }} th dport 53 accept
    ip daddr {{ {private} }} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr {prefix}.0/24 oifname != "{bridge}" masquerade
  }}
}}"""


def network_up() -> None:
    if not works("ip", "link", "show", BRIDGE):
        run("ip", "link", "add", BRIDGE, "type", "bridge")
    run("ip", "address", "replace", f"{PREFIX}.1/24", "dev", BRIDGE)
    run("ip", "link", "set", BRIDGE, "up")
    # Weaker than the bridge's own route, and left by `network_down`: a client that still calls a lab that is gone is
    # told so at once, and its packets never leave this machine.
    run("ip", "route", "replace", "unreachable", f"{PREFIX}.0/24", "metric", "4278198272")
    _forward()
    settings = Path("/etc/resolv.conf").read_text(encoding="utf-8")
    resolvers = re.findall(r"^nameserver\s+([\d.]+)$", settings, re.MULTILINE)
    rules = _FIREWALL.format(
        name=NAME, bridge=BRIDGE, prefix=PREFIX, private=_PRIVATE, resolvers=", ".join(resolvers or ["127.0.0.1"])
    )
    run("nft", "-f", "-", input=rules)


def network_down() -> None:
    if shutil.which("nft"):
        run("nft", "delete", "table", "ip", NAME, check=False)
    run("ip", "link", "delete", BRIDGE, check=False)
    _forward_no_more()


def _forward() -> None:
    """Between interfaces: what the first lab switches on, the last one switches off."""
    if not (_LABS / "before").exists():
        write(_LABS / "before", _FORWARD.read_text(encoding="ascii"))
    (_LABS / NAME).touch()
    _FORWARD.write_text("1", encoding="ascii")


def _forward_no_more() -> None:
    before = _LABS / "before"
    (_LABS / NAME).unlink(missing_ok=True)
    if before.exists() and not [lab for lab in _LABS.iterdir() if lab != before]:
        _FORWARD.write_text(before.read_text(encoding="ascii"), encoding="ascii")
        before.unlink()
        _LABS.rmdir()
