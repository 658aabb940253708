"""What the synthetic hosts run: calls, scripts of calls, kinds of process, and each host's proportions."""

from dataclasses import dataclass
from typing import Final

Argument = tuple[str, str, tuple[str, ...]]  # name, type, possible values


@dataclass(frozen=True)
class Call:
    """One kernel event. The number of arguments is the kernel's, so it follows from the event."""

    event_id: int
    name: str
    p_positive: float  # a descriptor, a size, a process id
    p_error: float
    arguments: tuple[Argument, ...] = ()


_PATHS: Final = ("'/etc/passwd'", "'/proc/stat'", "'/usr/lib/libc.so.6'", "'/var/log/syslog'")
_FLAGS: Final = ("'O_RDONLY'", "'O_RDONLY|O_CLOEXEC'")
_NUMBERS: Final = ("3", "7", "12", "25")
_POINTERS: Final = ("140662171848350", "94819493392601")


def _path(name: str = "pathname") -> Argument:
    return (name, "const char*", _PATHS)


def _fd(name: str = "fd") -> Argument:
    return (name, "int", _NUMBERS)


def _pointer(name: str) -> Argument:
    return (name, "unsigned long", _POINTERS)


READ = Call(0, "read", 0.9, 0.0, (_fd(), _pointer("buf"), _fd("count")))
CLOSE = Call(3, "close", 0.0, 0.01, (_fd(),))
STAT = Call(4, "stat", 0.0, 0.15, (_path(), _pointer("statbuf")))
FSTAT = Call(5, "fstat", 0.0, 0.0, (_fd(), _pointer("statbuf")))
ACCESS = Call(21, "access", 0.0, 0.6, (_path(), ("mode", "int*", ("'R_OK'", "'F_OK'"))))
SOCKET = Call(41, "socket", 1.0, 0.0, (("domain", "int", ("'AF_UNIX'", "'AF_INET'")), _fd("type"), _fd("protocol")))
CONNECT = Call(42, "connect", 0.0, 0.2, (_fd("sockfd"), _pointer("addr"), _fd("addrlen")))
CLONE = Call(56, "clone", 1.0, 0.0, tuple(_pointer(name) for name in ("flags", "stack", "ptid", "ctid", "tls")))
EXECVE = Call(59, "execve", 0.0, 0.05, (_path(), _pointer("argv"), _pointer("envp")))
PRCTL = Call(157, "prctl", 0.0, 0.0, (_fd("option"), *(_pointer(f"arg{number}") for number in range(2, 6))))
GETDENTS = Call(217, "getdents64", 0.6, 0.0, (_fd(), _pointer("dirp"), _fd("count")))
OPENAT = Call(257, "openat", 0.95, 0.05, (_fd("dirfd"), _path(), ("flags", "int", _FLAGS), _fd("mode")))
ACCEPT = Call(288, "accept4", 1.0, 0.0, (_fd("sockfd"), _pointer("addr"), _pointer("addrlen"), _fd("flags")))
FILE_OPEN = Call(1005, "security_file_open", 0.0, 0.0, (_path(), ("flags", "int", _FLAGS), _fd("dev"), _fd("inode")))
EXIT = Call(1010, "sched_process_exit", 0.0, 0.0)

Script = tuple[Call, ...]

READ_FILE: Script = (OPENAT, FILE_OPEN, FSTAT, READ, READ, CLOSE)
STAT_AND_READ: Script = (STAT, OPENAT, FSTAT, READ, CLOSE)
COPY: Script = (OPENAT, FSTAT, *(READ,) * 8, CLOSE)
LOOK_FOR: Script = (ACCESS, STAT, ACCESS, STAT)
LIST_FOLDER: Script = (OPENAT, FILE_OPEN, FSTAT, GETDENTS, GETDENTS, CLOSE)
START: Script = (CLONE, EXECVE, ACCESS, OPENAT, FILE_OPEN, FSTAT, READ, CLOSE, PRCTL, EXIT)
ASK: Script = (SOCKET, CONNECT, READ, CLOSE)
SERVE: Script = (ACCEPT, READ, SOCKET, CONNECT, CLOSE)

SCRIPTS: Final = (READ_FILE, STAT_AND_READ, LOOK_FOR, LIST_FOLDER, START, ASK, SERVE, COPY)


@dataclass(frozen=True)
class Kind:
    """A kind of process: where it stands in the system, and how often it runs each of `SCRIPTS`."""

    name: str
    own_process: bool  # not one of the processes 0, 1, 2
    own_parent: bool  # its parent is not one of these
    ordinary_user: bool
    contained: bool
    scripts: tuple[int, ...]  # weights


INIT: Final = (Kind("systemd", False, False, False, False, (4, 2, 1, 3, 0, 1, 0, 1)),)
SERVICES: Final = (
    Kind("sshd", True, False, False, False, (2, 1, 1, 0, 1, 2, 4, 1)),
    Kind("cron", True, False, False, False, (2, 3, 2, 0, 3, 0, 0, 1)),
)
CONTAINED: Final = (
    Kind("systemd-resolve", True, False, False, True, (1, 1, 0, 0, 0, 6, 4, 1)),
    Kind("systemd-network", True, False, False, True, (2, 1, 0, 0, 0, 5, 2, 1)),
    Kind("nginx", True, False, False, True, (2, 3, 0, 0, 0, 1, 6, 2)),
)
SESSIONS: Final = (
    Kind("bash", True, True, True, False, (3, 2, 3, 1, 3, 0, 0, 1)),
    Kind("python3", True, True, True, False, (4, 4, 2, 2, 1, 1, 0, 2)),
    Kind("vim", True, True, True, False, (3, 4, 2, 1, 0, 0, 0, 1)),
)
ROOTS_CHILDREN: Final = (
    Kind("ps", True, True, False, False, (5, 3, 0, 3, 1, 0, 0, 1)),
    Kind("sh", True, True, False, False, (2, 1, 4, 0, 4, 0, 0, 1)),
)
NORMAL: Final = (INIT, SERVICES, CONTAINED, SESSIONS, ROOTS_CHILDREN)

# The third keeps a session's identity and only talks more than sessions do: hard to find, for anyone.
ATTACK: Final = (
    Kind("tsm", True, False, True, True, (0, 3, 0, 0, 0, 1, 0, 6)),
    Kind("rsync", True, False, True, True, (0, 2, 0, 0, 0, 2, 0, 6)),
    Kind("kworker", True, True, True, False, (1, 1, 0, 0, 0, 4, 3, 2)),
)
UNUSUAL: Final = (Kind("close", False, True, False, False, (1, 0, 2, 0, 2, 1, 0, 0)),)

# Proportions of the groups in NORMAL, a host a line: three serve, three are worked on, two are administered.
HOST_PROPORTIONS: Final = (
    (0.06, 0.04, 0.80, 0.08, 0.02),
    (0.06, 0.04, 0.72, 0.16, 0.02),
    (0.08, 0.06, 0.66, 0.16, 0.04),
    (0.06, 0.03, 0.19, 0.70, 0.02),
    (0.06, 0.02, 0.12, 0.78, 0.02),
    (0.06, 0.02, 0.32, 0.56, 0.04),
    (0.10, 0.06, 0.48, 0.28, 0.08),
    (0.08, 0.04, 0.34, 0.44, 0.10),
)
