"""The generator: replays a data set as live streams, one topic a node."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.data.dataset import Dataset
from dl_mqtt_clients.data.partition import partition
from dl_mqtt_clients.data.replay import Replay, encode_readings
from dl_mqtt_clients.data.sources import load
from dl_mqtt_clients.services.addresses import address, with_brokers
from dl_mqtt_clients.services.loop import Service
from dl_mqtt_clients.transport.base import open_transport
from dl_mqtt_clients.wire.topics import for_node

log = logging.getLogger(__name__)
