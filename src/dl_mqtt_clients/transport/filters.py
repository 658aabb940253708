"""Topics and topic filters: what is allowed, and what matches what. Source: MQTT 5.0, section 4.7."""

from dl_mqtt_clients.errors import TransportError

MAX_BYTES = 65535


def check_topic(topic: str, qos: int) -> None:
    """TransportError unless `topic` can be published to at `qos`."""
    if not _is_text(topic) or "+" in topic or "#" in topic:
        raise TransportError(f"topic: expected 1 to 65535 bytes without + and #. Received: {topic[:200]!r}")
    _check_qos(qos)


def check_filter(topic_filter: str, qos: int) -> None:
    """TransportError unless `topic_filter` can be subscribed to at `qos`: + is a whole level, # the last one."""
    levels = topic_filter.split("/")
    wrong = any(len(level) > 1 and ("+" in level or "#" in level) for level in levels) or "#" in levels[:-1]
    if wrong or not _is_text(topic_filter):
        raise TransportError(
            f"topic filter: expected + as a whole level and # as the last. Received: {topic_filter[:200]!r}"
        )
    _check_qos(qos)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a valid filter takes a topic. Wildcards at the beginning do not take topics that begin with $."""
    if topic.startswith("$") and topic_filter[:1] in ("+", "#"):
        return False
    wanted, found = topic_filter.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(found) or level not in ("+", found[place]):
            return False
    return len(wanted) == len(found)


def _is_text(text: str) -> bool:
    try:
        return 0 < len(text.encode()) <= MAX_BYTES and "\0" not in text
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _check_qos(qos: int) -> None:
    if qos not in (0, 1):
        raise TransportError(f"qos: expected 0 or 1. Received: {qos}")
