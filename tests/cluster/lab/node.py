"""One node: its disk, its processes, its power switch."""

import contextlib
import functools
import os
import re
import signal
import subprocess
from pathlib import Path

from .cgroups import Cgroups
from .network import BRIDGE
from .places import FILES, KEY, NAME, NODES, PATH, PREFIX, STATE
from .settings import environment
from .shell import LabError, run, wait_for, works, write
from .trees import ROOTFS

_NEW = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork")
_DOCKER_BYTES = 40 * 2**30  # of a sparse file
_INSIDE = ("-m", "-u", "-i", "-n", "-p", "-C")  # the namespaces of a node


class Node:
    """`Node("node2").run("docker", "ps")`. The disk outlives the processes."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"node[1-9]\d?", name):
            raise LabError(f"node: expected node1 … node99. Received: {name!r}")
        self.name = name
        self.number = int(name.removeprefix("node"))
        self.ip = f"{PREFIX}.{10 + self.number}"
        self.folder = NODES / name
        self.link = f"{NAME}-{name}"  # of its cable on this machine, and of its network namespace
        self.cgroups = Cgroups(name)

    def pid(self) -> int | None:
        """Its init's, as this machine sees it; None when that very process is gone."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            if Path(f"/proc/{pid}/ns/net").stat().st_ino == Path(f"/run/netns/{self.link}").stat().st_ino:
                return pid
        return None

    def create(self) -> None:
        """Its disk: what differs from the shared tree."""
        etc, ssh = self.folder / "upper/etc", self.folder / "upper/root/.ssh"
        for folder in (etc / "ssh", ssh, self.folder / "work", self.folder / "root"):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (ssh, ssh.parent):
            folder.chmod(0o700)
        if not (etc / "hostname").exists():
            host_key = etc / "ssh/ssh_host_ed25519_key"
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", host_key)
            write(etc / "hostname", self.name + "\n")
        self._create_docker_disk()
        write(ssh / "authorized_keys", KEY.with_suffix(".pub").read_text(encoding="utf-8"), mode=0o600)

    def boot(self) -> None:
        """Power on. Returns before the services answer."""
        self.power_off()
        self._plug_in()
        self.cgroups.create()
        command = [
            "nsenter",
            f"--net=/run/netns/{self.link}",
            *_NEW,
            "bash",
            FILES / "boot.sh",
            self.folder,
            ROOTFS,
            self.name,
            *self.cgroups.folders,
        ]
        with (self.folder / "console.log").open("w") as log:
            subprocess.Popen(
                [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={"PATH": PATH},
            )  # fmt: skip

    def await_ready(self) -> None:
        """Until sshd and dockerd answer."""
        try:
            wait_for(f"{self.name}: first process", lambda: self.pid() is not None, within_s=10)
            wait_for(f"{self.name}: sshd and dockerd", self._ready, within_s=90)
        except LabError as error:
            logs = [self.folder / "console.log", self.folder / "upper/var/log/docker.log"]
            tails = [log.read_text(encoding="utf-8")[-1500:] for log in logs if log.exists()]
            raise LabError("\n".join([str(error), *tails])) from None

    def command(self, *words) -> list[str]:
        """What runs `words` inside, as root, without the network's help."""
        pid = self.pid()
        if pid is None:
            raise LabError(f"{self.name}: expected a node that is on. Received: off")
        variables = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}
        settings = [f"{name}={value}" for name, value in (variables | environment()).items()]
        return ["nsenter", "-t", str(pid), *_INSIDE, "env", "-i", *settings, *map(str, words)]

    def run(self, *words, **options) -> subprocess.CompletedProcess[str]:
        return run(*self.command(*words), cwd="/", preexec_fn=self.cgroups.join, **options)

    def docker(self, *words, **options) -> str:
        """What `docker …` prints there."""
        return self.run("docker", *words, **options).stdout.strip()

    def kill_docker(self) -> None:
        """kill -9 of dockerd; containers run on."""
        self.run("pkill", "--signal", "KILL", "--exact", "dockerd")

    def start(self) -> None:
        """Power, or Docker, back on."""
        if self.pid() is None:
            self.boot()
        else:
            self.run("service", "docker", "start", timeout=120)
        self.await_ready()

    def plug(self, *, on: bool) -> None:
        """Its network cable in or out."""
        run("ip", "link", "set", self.link, "up" if on else "down")

    def power_off(self) -> None:
        """As in a power cut: with its first process end all others. Its disk stays."""
        socket = STATE / f"ssh-{self.ip}"
        if socket.exists():  # Ansible's kept connection would hang on a node that is gone
            run("ssh", "-O", "exit", "-o", f"ControlPath={socket}", self.ip, check=False)
        visitors = run("ip", "netns", "pids", self.link, check=False).stdout.split()
        for pid in filter(None, [self.pid(), *map(int, visitors)]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for(f"{self.name}: end of its processes", lambda: self.pid() is None, within_s=60)
        (self.folder / "pid").unlink(missing_ok=True)
        run("ip", "netns", "delete", self.link, check=False)
        run("ip", "link", "delete", self.link, check=False)
        wait_for(f"{self.name}: end of its cgroups", self.cgroups.gone, within_s=20)

    def _create_docker_disk(self) -> None:
        """A file system in one file, which takes only what is in it: images are many files, and gone in no time so."""
        disk = self.folder / "docker.img"
        if not disk.exists():
            new = disk.with_suffix(".new")
            with new.open("wb") as file:
                file.truncate(_DOCKER_BYTES)
            run("mkfs.ext4", "-q", "-O", "^has_journal", new)
            new.rename(disk)

    def _ready(self) -> bool:
        return works(*self.command("sh", "-c", "docker version && ss -Hltn sport 22 | grep -q ."), cwd="/")

    def _plug_in(self) -> None:
        run("ip", "netns", "add", self.link)
        inside = functools.partial(run, "ip", "-n", self.link)
        address = f"02:00:00:00:00:{self.number:02x}"  # the same at each boot: others remember it
        peer = ("peer", "name", "eth0", "address", address, "netns", self.link)
        run("ip", "link", "add", self.link, "type", "veth", *peer)
        run("ip", "link", "set", self.link, "master", BRIDGE, "up")
        inside("link", "set", "lo", "up")
        inside("address", "add", f"{self.ip}/24", "dev", "eth0")
        inside("link", "set", "eth0", "up")
        inside("route", "add", "default", "via", f"{PREFIX}.1")


def nodes() -> list[Node]:
    """All that exist, also what a broken start left."""
    names = {path.name for path in NODES.glob("node*")}
    names |= {path.name.removeprefix(f"{NAME}-") for path in Path("/run/netns").glob(f"{NAME}-node*")}
    return sorted(map(Node, names), key=lambda node: node.number)
