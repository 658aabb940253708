"""A connection that folds what a federation says into a `Fleet`."""

import time
from collections.abc import Callable

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.dashboard.fleet import Fleet, fold, subscriptions
from dl_mqtt_clients.services.from_settings import address
from dl_mqtt_clients.services.link import Link
from dl_mqtt_clients.services.loop import Loop
from dl_mqtt_clients.transport.base import Delivery
from dl_mqtt_clients.wire.topics import Topics


class Watch:
    """Keeps `fleet` up to date on the loop's thread; `on_change(before, after)` is told of every message."""

    def __init__(
        self,
        loop: Loop,
        settings: Settings,
        *,
        name: str = "dashboard",
        on_change: Callable[[Fleet, Fleet], None] = lambda _before, _after: None,
    ) -> None:
        self.fleet = Fleet(topics=Topics(settings.federation.name))
        self.problem = ""  # why the broker cannot be reached
        self._on_change = on_change
        self._link = Link(
            loop,
            address(settings.broker),
            client_id=f"{settings.federation.name}:{name}",
            on_message=self._receive,
            on_connected=self._connected,
            on_disconnected=self._disconnected,
        )

    def start(self) -> None:
        for topic in subscriptions(self.fleet.topics):
            self._link.transport.subscribe(topic)
        self._link.start()

    def stop(self) -> None:
        self._link.stop()

    def _connected(self) -> None:
        self.problem = ""

    def _disconnected(self, reason: str) -> None:
        self.problem = reason

    def _receive(self, delivery: Delivery) -> None:
        before = self.fleet
        self.fleet = fold(before, delivery.topic, delivery.payload, now=time.monotonic())
        self._on_change(before, self.fleet)
