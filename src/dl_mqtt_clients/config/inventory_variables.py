"""Variables of an Ansible inventory, as `deploy/ansible` understands them."""

import re
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from dl_mqtt_clients.config.base import Section
from dl_mqtt_clients.config.fields import BrokerUrl, Expect, Name, Text


def _matches(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise ValueError(pattern)
    return text


def _below(text: str) -> str:
    if ".." in text.split("/"):
        raise ValueError(text)
    return _matches(r"|[^/\x00-\x1f][^\x00-\x1f]*", text)


Absolute = Annotated[str, AfterValidator(lambda text: _matches(r"/[^\x00-\x1f]*", text)), Expect("a path from / on")]
Below = Annotated[str, AfterValidator(_below), Expect("a path below data_volume, as train.csv")]
Host = Annotated[
    str, AfterValidator(lambda text: _matches(r"[A-Za-z0-9._:-]+", text)), Expect("an address or a host's name")
]
Registry = Annotated[
    str, AfterValidator(lambda text: _matches(r"|[A-Za-z0-9._-]+(:[0-9]+)?", text)), Expect("host:port, or nothing")
]
Variables = Annotated[dict[str, str], Expect("names with a text each")]
Port = Annotated[int, Field(ge=1, le=65_535)]


class HostVariables(Section):
    """What may differ from host to host; given for all, for a group or for a host."""

    node_id: Name | None = Field(default=None, description="Name in the federation; null: the host's.")
    address: Host | None = Field(
        default=None, description="Where the fleet reaches it; null: the address of its default route."
    )
    gpu: bool = Field(default=False, description="Use NVIDIA's GPU: its runtime becomes Docker's default one.")
    generator: bool = Field(default=False, description="Replay a data set as this node's sensors.")
    data_volume: Absolute = Field(
        default="/var/lib/fedlearn/data", description="Folder of the host whose files services may read."
    )
    training_data: Below = Field(default="", description="What the generator replays (data.path).")
    image_platform: Literal["linux/amd64", "linux/arm64"] | None = Field(
        default=None, description="Platform of its image; null: the host's own."
    )
    base_image: Text = Field(
        default="python:3.11-slim-bookworm", min_length=1, description="What its image is built from."
    )
    keras_backend: Literal["jax", "tensorflow", "torch"] = Field(default="jax", description="Keras's backend there.")
    backend_extra: Literal["jax", "tensorflow", "torch", "none"] | None = Field(
        default=None, description="Backend to install; none: the base image has it; null: that of keras_backend."
    )
    ca_file: Absolute | None = Field(default=None, description="PEM file of the authorities that it trusts.")
    cert_file: Absolute | None = Field(default=None, description="PEM file of its certificate.")
    key_file: Absolute | None = Field(default=None, description="PEM file of its certificate's key.")
    environment_variables: Variables = Field(
        default={}, description="Settings of this node alone, as FEDLEARN_NODE__MAX_STEPS."
    )


class FleetVariables(HostVariables):
    """What the whole fleet has in common is given for all, or for the manager."""

    scaler_data: Below = Field(
        default="", description="What the base model's scaler is fitted to, on the manager (data.path)."
    )
    model_file: Absolute | None = Field(
        default=None, description="A .keras file for the base model; null: built from the configuration."
    )
    base_model: Absolute | None = Field(
        default=None, description="Folder of a finished base model and its scaler; null: made on the manager."
    )
    registry: Registry = Field(default="", description="Registry of the images; empty: one on the manager.")
    broker_url: BrokerUrl | None = Field(
        default=None, description="Another federation broker; null: Mosquitto on the manager."
    )
    broker_port: Port = Field(default=1883, description="Port of the federation broker on the manager.")
    data_broker_port: Port = Field(default=1884, description="Port of each node's own broker.")
    encrypted_overlay: bool = Field(
        default=False, description="Encrypt what services say to each other (IPsec; needs ESP)."
    )
    configuration: Absolute | None = Field(
        default=None, description="The federation's configuration; null: the project's."
    )
    secrets: Absolute | None = Field(
        default=None, description="Folder of the passwords; null: secrets, beside the inventory."
    )


FLEET_WIDE: Final = frozenset(FleetVariables.model_fields) - frozenset(HostVariables.model_fields)
