"""One connection to a broker, from CONNECT to its end; the next attempt makes a new one.

So nothing is carried over: what was not written when a connection is lost is gone, as services expect.
"""

import contextlib
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.base import Address, Delivery, Will
from dl_mqtt_clients.transport.paho_client import CONNECT_WITHIN_S, Message, PahoClient
from dl_mqtt_clients.transport.sockets import drain, wait_for
from dl_mqtt_clients.transport.tls import readable

MAX_BACKLOG: Final = 50_000  # messages; beyond it `publish` says no instead of eating the memory
IN_FLIGHT: Final = 100  # QoS 1 messages sent and not acknowledged, unless the broker wants fewer
LONGEST_WAIT_S: Final = 5.0  # between two looks at the keep-alive
GOODBYE_WITHIN_S: Final = 0.5


class Connection:
    """Run by one thread; `publish`, `subscribe`, `unsubscribe`, `close` and `backlog` are for all threads."""

    def __init__(
        self,
        address: Address,
        *,
        client_id: str,
        will: Will | None,
        on_message: Callable[[Delivery], None],
        on_ready: Callable[[], None],
        fast: bool = True,
    ) -> None:
        self.ready = False  # accepted by the broker, and not lost since
        self.received = on_message
        self._on_ready = on_ready
        self._reason = ""
        self._accepted = self._was_accepted = False
        self._hint = ""
        self._close_at: float | None = None
        self._lock = threading.Lock()
        self._waiting: deque[Message] = deque()
        self._in_flight: set[int] = set()
        self._acknowledged: deque[int] = deque()
        self._window = IN_FLIGHT
        self._thread = 0
        self._woken = False
        self._wake_out: socket.socket | None = None
        self._client = PahoClient(address, self, client_id=client_id, will=will, fast=fast)

    # ---- for all threads -------------------------------------------------------------------------------------

    def publish(self, message: Message) -> bool:
        """False when there is no connection, or when MAX_BACKLOG messages already wait."""
        if not self.ready or self.backlog >= MAX_BACKLOG:
            return False
        if message.qos == 0:
            return self._client.send(message) is not None
        with self._lock:
            if self._waiting or len(self._in_flight) >= self._window:
                self._waiting.append(message)
                return True
            return self._send(message)

    def subscribe(self, filters: Mapping[str, int]) -> None:
        if filters:
            self._client.send_subscribe(filters)

    def unsubscribe(self, topic_filter: str) -> None:
        self._client.unsubscribe(topic_filter)

    @property
    def backlog(self) -> int:
        return len(self._waiting) + len(self._in_flight) + self._client.unsent

    def close(self, *, within_s: float) -> None:
        """Ask for the end: what was published goes out first, if that takes no longer than `within_s`."""
        self._close_at = time.monotonic() + within_s
        self.wake()

    def wake(self) -> None:
        """Make the thread look for what there is to write."""
        if self._woken or self._wake_out is None or threading.get_ident() == self._thread:
            return
        self._woken = True
        with contextlib.suppress(OSError):  # closed: the connection has ended
            self._wake_out.send(b"!")

    # ---- the thread's own ------------------------------------------------------------------------------------

    def run(self) -> str:
        """Connect and serve until the connection ends; says why it ended."""
        self._thread = threading.get_ident()
        wake_in, self._wake_out = socket.socketpair()
        try:
            self._client.open()
            self._hint = " before it let us in (wrong user name or password, or not an MQTT 5 broker?)"
            self._serve(wake_in)
        except OSError as error:
            self.ended(readable(error))
        except TransportError as error:
            self.ended(str(error))
        finally:
            self.ready = False
            sock = self._client.connected_socket
            if sock is not None:
                sock.close()
            wake_in.close()
            self._wake_out.close()
        return self._reason if self._was_accepted else f"{self._reason}{self._hint}"

    def accepted(self, receive_maximum: int) -> None:
        self._was_accepted = True
        self._window = min(IN_FLIGHT, receive_maximum)
        self._accepted = True

    def acknowledged(self, packet_id: int) -> None:
        self._acknowledged.append(packet_id)  # settled later: paho holds its own lock now, and wants it first

    def ended(self, reason: str) -> None:
        self.ready = False
        if not reason.startswith("connection lost"):
            self._hint = ""  # the broker, or the socket, said what is wrong
        self._reason = self._reason or reason

    def _serve(self, wake_in: socket.socket) -> None:
        accept_until = time.monotonic() + CONNECT_WITHIN_S
        with selectors.DefaultSelector() as selector:
            sock = self._client.connected_socket
            if sock is None:
                raise TransportError("connection lost")
            selector.register(sock, selectors.EVENT_READ)
            selector.register(wake_in, selectors.EVENT_READ)
            while not self._reason:
                self._write(selector, sock)
                if self._reason:
                    return
                if self._close_at is not None and self._say_goodbye():
                    return
                if not self.ready and time.monotonic() > accept_until:
                    raise TransportError(f"connected, but no answer within {CONNECT_WITHIN_S:.0f} s")
                self._read(selector.select(self._patience_s()), wake_in)
                self._client.loop_misc()

    def _patience_s(self) -> float:
        """How long to sleep when nothing happens."""
        if self._client.pending:
            return 0.0
        longest_s = min(LONGEST_WAIT_S, self._client.keepalive / 4 or LONGEST_WAIT_S)
        if self._close_at is not None:
            return min(max(self._close_at - time.monotonic(), 0.0), 0.05)
        return longest_s

    def _write(self, selector: selectors.BaseSelector, sock: socket.socket) -> None:
        self._client.loop_write()  # also when there is nothing: it re-arms paho's call to `wake`
        if self._reason:
            return
        blocked = self._client.want_write()
        selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0))

    def _read(self, events: list[tuple[selectors.SelectorKey, int]], wake_in: socket.socket) -> None:
        readable_now = self._client.pending
        for key, mask in events:
            if key.fileobj is wake_in:
                self._woken = False  # before the queue is looked at, so that nothing slips through
                wake_in.recv(64)
            elif mask & selectors.EVENT_READ:
                readable_now = True
        if readable_now:
            self._client.loop_read()
        if self._acknowledged:
            self._settle()
        if self._accepted and not self._reason:
            self._accepted = False
            self._on_ready()

    def _settle(self) -> None:
        """Acknowledged messages make room for those that wait."""
        with self._lock:
            while self._acknowledged:
                self._in_flight.discard(self._acknowledged.popleft())
            while self._waiting and len(self._in_flight) < self._window:
                self._send(self._waiting.popleft())

    def _send(self, message: Message) -> bool:
        packet_id = self._client.send(message)
        if packet_id is None:
            return False
        self._in_flight.add(packet_id)
        return True

    def _say_goodbye(self) -> bool:
        """DISCONNECT once all is out or time is up; True when done."""
        if self.ready and self.backlog and time.monotonic() < (self._close_at or 0.0):
            return False
        sock = self._client.connected_socket
        keep = None if sock is None else socket.socket(fileno=os.dup(sock.fileno()))
        self.ended("stopped")
        self._client.disconnect()
        until = time.monotonic() + GOODBYE_WITHIN_S
        with contextlib.ExitStack() as stack:
            if keep is None:
                return True
            stack.enter_context(keep)
            while self._client.want_write() and self._client.connected_socket is not None and time.monotonic() < until:
                self._client.loop_write()
                wait_for(keep, selectors.EVENT_WRITE, until=until)
            drain(keep, until=until)
        return True
