"""What all sections share: frozen, strict, no unknown fields, and errors in our own words."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dl_mqtt_clients.config.mistakes import explain
from dl_mqtt_clients.errors import ConfigurationError


class Section(BaseModel):
    """A group of settings. ConfigurationError lists everything that is wrong with the values given."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            found = explain(error, type(self))
            raise ConfigurationError([mistake.text() for mistake in found]) from error

    # Sections inside of sections are then built by pydantic itself, so that all their mistakes are collected.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]
