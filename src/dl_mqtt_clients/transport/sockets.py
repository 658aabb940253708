"""Socket options for small messages without delay, and closing without losing the last word."""

import contextlib
import selectors
import socket
import sys
import time
from typing import Final

_QUICKACK: Final = getattr(socket, "TCP_QUICKACK", None) if sys.platform == "linux" else None


def no_delay(sock: socket.socket | None) -> None:
    """Small packets go at once, instead of waiting for the acknowledgement of the one before."""
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    quick_ack(sock)


def quick_ack(sock: socket.socket | None) -> None:
    """Acknowledge at once: a broker without TCP_NODELAY holds its next small packet back until then (40 ms).

    Linux forgets the option after a while, so it is to be set again after every read.
    """
    if _QUICKACK is not None and sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 1)


def wait_for(sock: socket.socket, event: int, *, until: float) -> bool:
    """Whether `event` of `selectors` came before `time.monotonic()` is `until`."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, event)
        return bool(selector.select(max(until - time.monotonic(), 0.0)))


def drain(sock: socket.socket, *, until: float) -> None:
    """Read to the end: closing with unread bytes resets the connection, and the broker may send the will."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while wait_for(sock, selectors.EVENT_READ, until=until) and sock.recv(65536):
            pass
