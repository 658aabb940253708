"""A service's retained status: on change (not more often than twice a second), and every 30 s ± jitter.

It also notices a second process under the same name: once we have heard our own status, that of an instance which is
not our own past means that somebody else uses the name; this one then stops, without a goodbye (the newer one speaks
now), and the newer one goes on. Our past is what we found at our topic when we came, and the instances listed in the
state folder: a broker that restarts may bring back any of them.
"""

import logging
import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dl_mqtt_clients.aggregation.files import write_atomically
from dl_mqtt_clients.errors import DuplicateInstanceError, MessageError
from dl_mqtt_clients.services.health import Pulse
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus, decode, encode

log = logging.getLogger(__name__)

Status = ManagerStatus | NodeStatus

EVERY_S: Final = 30.0
AT_MOST_EVERY_S: Final = 0.5
REMEMBERED: Final = 50  # instances listed in the state folder


def new_instance() -> str:
    return secrets.token_hex(8)


class StatusBoard:
    """Publishes what `current()` returns at `topic`. `past`: the file that lists our instances."""

    def __init__(
        self,
        loop: Loop,
        topic: str,
        *,
        instance: str,
        past: Path,
        current: Callable[[], Status],
        on_settled: Callable[[], None] = lambda: None,
    ) -> None:
        self.displaced = False  # another process has our name now
        self._loop = loop
        self._topic = topic
        self._instance = instance
        self._past_file = past
        self._pulse = Pulse(past.parent)
        self._current = current
        self._on_settled = on_settled
        self._link: Link | None = None
        self._past: set[str] = set()
        self._heard_ourselves = False
        self._settled = False
        self._last = b""

    def begin(self, link: Link) -> None:
        """Call before the link starts."""
        self._link = link
        self._past = set(self._remember())
        link.transport.subscribe(self._topic)

    def connected(self) -> None:
        """Call on every connect. When our status comes back, so has all that was retained: `on_settled` is called."""
        self._last = b""
        self._settled = False
        self._publish()

    def changed(self, *, now: bool = False) -> None:
        """Something worth telling happened."""
        if now:
            self._publish()
        elif not self._loop.pending("status change"):
            self._loop.at("status change", AT_MOST_EVERY_S, self._publish)

    def goodbye(self) -> None:
        """The last word; call after the state says so."""
        if not self.displaced:
            self._publish()

    def is_own(self, delivery: Delivery) -> bool:
        """Whether the delivery is about our name.

        DuplicateInstanceError when somebody else uses it; MessageError when it is no status. Whatever is there that
        is not our last word is soon replaced by it.
        """
        if delivery.topic != self._topic:
            return False
        try:
            status = decode(delivery.payload, type(self._current())) if delivery.payload else None
        except MessageError:
            self._say_again()
            raise
        if status is not None and status.instance == self._instance:
            self._hear_ourselves(delivery, lost=status.state == "lost")
        elif status is None or not status.instance or status.instance in self._past or not self._heard_ourselves:
            self._past.add(status.instance if status else "")
            self._say_again()
        else:
            self.displaced = True
            raise DuplicateInstanceError(
                f"{self._topic}: another process (instance {status.instance}) runs under this name"
            )
        return True

    def _hear_ourselves(self, delivery: Delivery, *, lost: bool) -> None:
        self._heard_ourselves = True
        self._pulse.heard()
        if lost:
            self._say_again()  # a will of a connection that we have replaced
        elif not self._settled and not delivery.retained:
            self._settled = True
            self._on_settled()

    def _say_again(self) -> None:
        self._last = b""
        self.changed()

    def _publish(self) -> None:
        self._loop.cancel("status change")
        self._loop.at("status", EVERY_S * random.uniform(0.8, 1.2), self._again)
        self._pulse.turned()
        if self._link is None or not self._link.transport.connected:
            return
        payload = encode(self._current())
        if payload != self._last:
            self._last = payload
            self._link.transport.publish(self._topic, payload, retain=True)

    def _again(self) -> None:
        self._last = b""
        self._publish()

    def _remember(self) -> list[str]:
        """Our instances before this one, newest last; this one is added to the list."""
        try:
            known = self._past_file.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            known = []
        try:
            write_atomically(self._past_file, "\n".join([*known[-REMEMBERED:], self._instance, ""]).encode())
        except OSError as error:
            log.warning("%s: cannot be written: %s", self._past_file, error)
        return known
