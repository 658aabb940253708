"""Mosquitto's configuration of a bridge between a site's broker and the centre's: what crosses, and nothing else.

Services of a site talk to their own broker; the bridge is one client of both. Down come the round, the models and the
replies to this site's trainers; up go status, statistics, offers, updates and anomalies of this site's nodes. Readings
and scores have no line here, nor has another site's node. Each topic crosses in one direction only: nothing comes back.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dl_mqtt_clients.wire.topics import Topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Bridge:
    """`site` names the bridge; `nodes` are the ids of the site's nodes; `host`, `port` are the centre's broker."""

    federation: str
    site: str
    nodes: Sequence[str]
    host: str
    port: int
    username: str = ""
    password: str = ""
    tls: bool = False
    ca_file: Path | None = None  # none: the system's authorities
    cert_file: Path | None = None
    key_file: Path | None = None

    def topics(self) -> Iterator[tuple[str, str]]:
        """(filter, "in" or "out"), as the site sees it."""
        topics = Topics(self.federation)
        yield from ((name, "in") for name in (topics.round, topics.model("+"), topics.blob("+", "+")))
        for node in self.nodes:
            yield topics.reply(node), "in"
            yield topics.status(node, "+"), "out"
            yield topics.statistics(node, "+"), "out"
            yield topics.features(node), "out"
            yield topics.offer(node), "out"
            yield topics.update(node, "+", "+"), "out"
            yield topics.anomaly(node), "out"

    def configuration(self) -> str:
        """Lines to add to the site's mosquitto.conf."""
        lines = [
            f"connection {self.federation}-{self.site}",
            f"address {self.host}:{self.port}",
            "bridge_protocol_version mqttv50",  # with it messages keep expiry, response topic and signature
            f"remote_clientid {self.federation}:bridge:{self.site}",
            f"local_clientid {self.federation}:bridge:{self.site}",
            "cleansession false",  # what is said while the line is down is kept, as far as queues go
            "keepalive_interval 30",
            "restart_timeout 1 30",  # seconds: jittered, growing
            "try_private false",  # a word that only Mosquitto knows
            "notifications_local_only true",
            *self._secrets(),
            *(f"topic {pattern} {direction} 1" for pattern, direction in self.topics()),
        ]
        return "\n".join(lines) + "\n"

    def _secrets(self) -> Iterator[str]:
        named = {
            "remote_username": self.username,
            "remote_password": self.password,
            "bridge_cafile": self.ca_file if self.tls else None,
            "bridge_capath": "/etc/ssl/certs" if self.tls and not self.ca_file else None,
            "bridge_certfile": self.cert_file,
            "bridge_keyfile": self.key_file,
        }
        return (f"{name} {value}" for name, value in named.items() if value)
