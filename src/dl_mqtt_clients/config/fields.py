"""The kinds of value a setting may have: range and syntax as types, each with the words an error uses for it."""

import re
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

MAX_INT: Final = 2**53  # the largest integer every JSON reader keeps exactly
MAX_TOPIC_BYTES: Final = 65_535  # MQTT 5, section 1.5.4


@dataclass(frozen=True, slots=True)
class Expect:
    """Metadata of a field: what it must be, in words, where the type alone does not say it."""

    words: str


def _matches(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text) is None:
        raise ValueError(pattern)
    return text


def _name(text: str) -> str:
    return _matches(r"[A-Za-z0-9_-]{1,64}", text)


def _name_or_empty(text: str) -> str:
    return text and _name(text)


def _plain(text: str) -> str:
    return _matches(r"[^\x00-\x1f\x7f\ud800-\udfff]*", text)


def _broker_url(text: str) -> str:
    """mqtt[s]://host[:port] and nothing else: user and password have their own fields, which are never shown."""
    if re.fullmatch(r"memory://[A-Za-z0-9_-]{1,64}", text):  # within one process: tests and simulation
        return text
    parts = urlsplit(_plain(text))
    bare = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.path in ("", "/")
    if not bare or parts.query or parts.fragment or "@" in parts.netloc or re.search(r"\s", text):
        raise ValueError(text)
    if parts.netloc.endswith(":") or parts.port == 0:  # .port itself raises ValueError above 65535
        raise ValueError(text)
    return text


def _topic_filter(text: str) -> str:
    levels = _plain(text).split("/")
    if not text or len(text.encode()) > MAX_TOPIC_BYTES or "#" in "".join(levels[:-1]):
        raise ValueError(text)
    if any(len(level) > 1 and ("+" in level or "#" in level) for level in levels):
        raise ValueError(text)
    return text


def _topic(text: str) -> str:
    if "+" in text or "#" in text:
        raise ValueError(text)
    return _topic_filter(text)


def _topic_filter_or_empty(text: str) -> str:
    return text and _topic_filter(text)


# A field that narrows one of these must not repeat a bound of it: pydantic would keep this one.
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Positive = Annotated[int, Field(ge=1, le=MAX_INT)]
ChunkBytes = Annotated[int, Field(ge=1, le=64 * 1024 * 1024)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
NotNegative = Annotated[float, Field(ge=0.0)]
AboveZero = Annotated[float, Field(gt=0.0)]
Seconds = Annotated[float, Field(ge=0.0, le=31_536_000.0)]  # a year: MQTT's message expiry has 32 bits

Text = Annotated[str, AfterValidator(_plain), Expect("text on one line")]
Secret = Annotated[SecretStr, Expect("text")]
Name = Annotated[str, AfterValidator(_name), Expect("1 to 64 of the characters A-Z a-z 0-9 _ -")]
NameOrEmpty = Annotated[
    str, AfterValidator(_name_or_empty), Expect("nothing, or 1 to 64 of the characters A-Z a-z 0-9 _ -")
]
BrokerUrl = Annotated[
    str,
    AfterValidator(_broker_url),
    Expect("mqtt://host:port or mqtts://host:port (user name and password have their own fields)"),
]
Topic = Annotated[str, AfterValidator(_topic), Expect("an MQTT topic without wildcards")]
TopicFilter = Annotated[
    str, AfterValidator(_topic_filter), Expect("an MQTT topic; + stands for a level, # for all below")
]
TopicFilterOrEmpty = Annotated[
    str,
    AfterValidator(_topic_filter_or_empty),
    Expect("nothing, or an MQTT topic; + stands for a level, # for all below"),
]


# YAML and JSON know lists only: they are taken, and frozen into tuples.
Names = Annotated[tuple[Name, ...], Field(strict=False)]
Texts = Annotated[tuple[Text, ...], Field(strict=False)]
Widths = Annotated[tuple[Positive, ...], Field(strict=False)]
