"""One command's short talk with a broker: connect, ask, hear the answers, all before a deadline."""

import secrets
import time
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.services.from_settings import address
from dl_mqtt_clients.transport.base import Delivery, Transport, open_transport


class Conversation:
    """`with Conversation(settings, timeout_s=5) as talk:` is connected, or raises TransportError."""

    def __init__(self, settings: Settings, *, timeout_s: float) -> None:
        self.place = address(settings.broker).place
        self.deadline = time.monotonic() + timeout_s
        self.timeout_s = timeout_s
        self.name = f"operator-{secrets.token_hex(4)}"
        self.transport: Transport = open_transport(address(settings.broker), client_id=self.name)
        self._events: SimpleQueue[Delivery | str | None] = SimpleQueue()  # a delivery, why not connected, connected

    def deliveries(self, *, quiet_s: float | None = None) -> Iterator[Delivery]:
        """What arrives, until the deadline, or until nothing came for `quiet_s`."""
        while (left_s := self.deadline - time.monotonic()) > 0:
            try:
                event = self._events.get(timeout=left_s if quiet_s is None else min(left_s, quiet_s))
            except Empty:
                return
            if isinstance(event, Delivery):
                yield event
            elif event is not None:
                raise TransportError(event)

    def __enter__(self) -> Self:
        self.transport.start(
            on_message=self._events.put,
            on_connected=lambda: self._events.put(None),
            on_disconnected=lambda reason: self._events.put(reason.partition("; trying again")[0]),
        )
        try:
            event = self._events.get(timeout=self.timeout_s)
        except Empty:
            event = f"broker {self.place}: expected a connection within {self.timeout_s:g} s. Received: none"
        if isinstance(event, str):
            self.transport.stop()
            raise TransportError(event)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.transport.stop()
