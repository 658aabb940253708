"""How to reach a broker, and who we are there."""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr

from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.fields import BrokerUrl, Secret, Text, Topic, TopicFilter, TopicFilterOrEmpty
from dl_mqtt_clients.errors import ConfigurationError


class BrokerSettings(Section):
    """The federation broker: models, updates, counts and status; never a reading."""

    url: BrokerUrl = Field(
        default="mqtt://localhost:1883",
        description="Address. mqtt:// is plain TCP (port 1883 unless given), mqtts:// is TLS (8883).",
    )
    username: Text = Field(default="", description="User name; empty: anonymous.")
    password: Secret = Field(
        default=SecretStr(""), description="Password. Better kept in password_file or in the environment."
    )
    password_file: Text = Field(default="", description="File whose first line is the password; empty: none.")
    ca_file: Text = Field(
        default="", description="PEM file of the authorities trusted for mqtts://; empty: those of the system."
    )
    cert_file: Text = Field(default="", description="PEM file of this client's certificate; empty: none.")
    key_file: Text = Field(default="", description="PEM file of the certificate's private key; empty: none.")
    keepalive_s: Annotated[int, Field(ge=1, le=65_535)] = Field(
        default=30, description="Silence after which the broker takes us for lost is 1.5 times this, in seconds."
    )

    @property
    def tls(self) -> bool:
        return self.url.startswith("mqtts://")

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (8883 if self.tls else 1883)

    def read_password(self) -> str:
        """The password, from its field or its file; empty: none. ConfigurationError when the file cannot be read."""
        if not self.password_file:
            return self.password.get_secret_value()
        try:
            lines = Path(self.password_file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            name, reason = self.password_file, type(error).__name__
            raise ConfigurationError(
                [f"password_file: expected a readable text file. Received: {name!r} ({reason})"]
            ) from error
        return lines[0] if lines else ""


class DataBrokerSettings(BrokerSettings):
    """The node's own broker: readings and scores, which never leave it for the federation."""

    reading_topic: TopicFilter = Field(
        default="reading/{node}", description="Where readings arrive; {node} stands for the node's id."
    )
    label_topic: TopicFilterOrEmpty = Field(
        default="label/{node}", description="Where labels that come late arrive; empty: none do."
    )
    score_topic: Topic = Field(default="score/{node}", description="Where scores and verdicts are published.")
    qos: Literal[0, 1] = Field(
        default=0, description="MQTT quality of service of readings and scores: 0 at most once, 1 at least once."
    )
