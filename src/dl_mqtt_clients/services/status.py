"""A service's retained status: on change (not more often than twice a second), and every 30 s ± jitter.

It also notices a second process under the same name: once we have published our status, a foreign `instance` on our
topic means that somebody else uses the name; this one then stops, the newer one goes on.
"""

import random
import secrets
from collections.abc import Callable
from typing import Final

from dl_mqtt_clients.errors import DuplicateInstanceError, MessageError
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus, decode, encode

Status = ManagerStatus | NodeStatus

EVERY_S: Final = 30.0
AT_MOST_EVERY_S: Final = 0.5


def new_instance() -> str:
    return secrets.token_hex(8)


class StatusBoard:
    """Publishes what `current()` returns at `topic`."""

    def __init__(self, loop: Loop, topic: str, *, instance: str, current: Callable[[], Status]) -> None:
        self._loop = loop
        self._topic = topic
        self._instance = instance
        self._current = current
        self._link: Link | None = None
        self._earlier: set[str] = set()  # instances seen before we said anything: our own past
        self._published = False
        self._last = b""

    def connected(self, link: Link) -> None:
        """Call on every connect."""
        self._link = link
        link.transport.subscribe(self._topic)
        self._last = b""
        self._publish()

    def changed(self, *, now: bool = False) -> None:
        """Something worth telling happened."""
        if now:
            self._publish()
        elif not self._loop.pending("status change"):
            self._loop.at("status change", AT_MOST_EVERY_S, self._publish)

    def goodbye(self) -> None:
        """The last word; call after the state says so."""
        self._publish()

    def is_own(self, delivery: Delivery) -> bool:
        """Whether the delivery is about our name. DuplicateInstanceError when somebody else uses it."""
        if delivery.topic != self._topic:
            return False
        try:
            other = decode(delivery.payload, type(self._current())).instance if delivery.payload else ""
        except MessageError:
            return True
        if not other or other == self._instance:
            self._published = self._published or other == self._instance
        elif not self._published and delivery.retained:
            self._earlier.add(other)
        elif other not in self._earlier:
            raise DuplicateInstanceError(f"{self._topic}: another process (instance {other}) runs under this name")
        return True

    def _publish(self) -> None:
        self._loop.cancel("status change")
        self._loop.at("status", EVERY_S * random.uniform(0.8, 1.2), self._again)
        if self._link is None or not self._link.transport.connected:
            return
        payload = encode(self._current())
        if payload != self._last:
            self._last = payload
            self._link.transport.publish(self._topic, payload, retain=True)

    def _again(self) -> None:
        self._last = b""
        self._publish()
