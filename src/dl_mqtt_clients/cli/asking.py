"""What commands ask of a manager, and what its versions are called."""

import re
import secrets
from dataclasses import dataclass
from typing import Final

from dl_mqtt_clients.cli.conversation import Conversation
from dl_mqtt_clients.errors import ConfigurationError, FederatedLearningError, MessageError, TransportError
from dl_mqtt_clients.wire.messages import Answer, Command, History, Manifest, RoundReport, decode, encode
from dl_mqtt_clients.wire.topics import Topics

QUIET_S: Final = 0.4  # without a further message: all that is retained has come
SHORTEST: Final = 6  # digits of a hash that may stand for all of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """A federation's versions, as its manager publishes them."""

    reports: tuple[RoundReport, ...] = ()  # those that made a version, oldest first
    newest: Manifest | None = None
    production: Manifest | None = None
    omitted: int = 0  # older reports that did not fit into the history

    @property
    def names(self) -> dict[int, str]:
        """Number -> SHA-256; also of the version that the oldest known one was built on."""
        bases = {report.number - 1: report.base for report in self.reports if report.base}
        made = {report.number: report.version for report in self.reports if report.version}
        now = {manifest.number: manifest.version for manifest in (self.newest, self.production) if manifest}
        return {number: name for number, name in sorted((bases | made | now).items()) if name}

    def resolve(self, text: str) -> str:
        """The SHA-256 of a number or of a beginning. ConfigurationError, with what there is, for anything else."""
        names = self.names
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text
        if text.isdecimal() and int(text) in names:
            return names[int(text)]
        found = {name for name in names.values() if len(text) >= SHORTEST and name.startswith(text)}
        if len(found) == 1:
            return found.pop()
        known = ", ".join(_ranges(list(names))) or "none"
        expected = f"version: expected a number ({known}), a SHA-256, or its first {SHORTEST} digits or more"
        raise ConfigurationError([f"{expected}. Received: {text[:80]}"])


def look_up(talk: Conversation, topics: Topics) -> Trail:
    """What the broker holds. TransportError when there is nothing."""
    history, stages = History(generation=1), dict[str, Manifest]()
    for topic in (topics.history, topics.model("global"), topics.model("production")):
        talk.transport.subscribe(topic)
    for delivery in talk.deliveries(quiet_s=max(QUIET_S, min(talk.timeout_s / 10, 2.0))):
        try:
            if delivery.topic == topics.history and delivery.payload:
                history = decode(delivery.payload, History)
            elif delivery.payload:
                stages[delivery.topic] = decode(delivery.payload, Manifest)
        except MessageError as error:
            raise FederatedLearningError(f"{delivery.topic[:200]}: {error}") from error
    if not history.rounds and not stages:
        raise TransportError(
            f"versions: expected those of federation {topics.federation!r} at {talk.place}. Received: none"
        )
    return Trail(
        reports=tuple(sorted((r for r in history.rounds if r.version), key=lambda r: r.number)),
        newest=stages.get(topics.model("global")),
        production=stages.get(topics.model("production")),
        omitted=history.omitted,
    )


def ask(talk: Conversation, topics: Topics, order: Command) -> Answer:
    """The manager's answer. TransportError when there is none within the time."""
    here, correlation = topics.answer(talk.name), secrets.token_bytes(16)
    talk.transport.subscribe(here)
    talk.transport.publish(topics.command, encode(order), response_topic=here, correlation=correlation)
    for delivery in talk.deliveries():
        if delivery.topic == here and delivery.correlation == correlation:
            return decode(delivery.payload, Answer)
    raise TransportError(
        f"{order.command}: expected an answer within {talk.timeout_s:g} s. Received: none"
        f" (is a manager of federation {topics.federation!r} at {talk.place}?)"
    )


def _ranges(numbers: list[int]) -> list[str]:
    """1, 2, 3, 5 -> 1–3, 5."""
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return [f"{first}" if first == last else f"{first}–{last}" for first, last in ranges]
