"""Other people's brokers: see first whether they answer, and leave nothing behind."""

import logging
from typing import Final

from dl_mqtt_clients.cli.conversation import Conversation
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.wire.topics import Topics

CONNECT_WITHIN_S: Final = 10.0
QUIET_S: Final = 0.4  # without a further message: all that is retained has come

log = logging.getLogger(__name__)


def check_broker(settings: Settings) -> None:
    """TransportError when it cannot be reached or does not let us in."""
    with Conversation(settings, timeout_s=CONNECT_WITHIN_S):
        pass


def forget_federation(settings: Settings) -> int:
    """Clear every retained message of this federation; their number. A broker that is gone is left alone."""
    cleared = 0
    try:
        with Conversation(settings, timeout_s=CONNECT_WITHIN_S) as talk:
            talk.transport.subscribe(f"{Topics(settings.federation.name).root}/#")
            for delivery in talk.deliveries(quiet_s=QUIET_S):
                if delivery.retained and delivery.payload:
                    talk.transport.publish(delivery.topic, b"", retain=True)
                    cleared += 1
    except TransportError as error:
        log.warning("retained messages are left on the broker: %s", error)
    return cleared
