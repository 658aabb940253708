"""YAML text as plain values with their lines; only what a configuration needs, so nothing hostile can happen.

No anchors (bombs), no tags (objects), no duplicate keys, bounded size and depth. Scalars follow YAML 1.2's core
schema, and `_` may group the digits of a number.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

MAX_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 20
MAX_EVENTS: Final = 100_000
MAX_DIGITS: Final = 1000  # Python refuses integers of more than 4300

_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True, slots=True)
class Node:
    """A value and the line it (or its key) stands on, from 1. Children are nodes too."""

    value: "Scalar | dict[str, Node] | list[Node]"
    line: int

    def plain(self) -> Any:
        """The value without lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


Scalar = str | int | float | bool | None


class TextMistakeError(Exception):
    """The text cannot be read at all: what was expected, what was there, and in which line (0: no line)."""

    def __init__(self, expected: str, received: str, line: int = 0) -> None:
        super().__init__(expected, received, line)
        self.expected = expected
        self.received = received
        self.line = line


def read_text(path: Path) -> str:
    """A file's text. TextMistakeError when it is missing, too large or not UTF-8."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TextMistakeError("a readable file", f"{error.strerror or error} ({path})") from error
    if len(content) > MAX_BYTES:
        raise TextMistakeError("at most 1 MiB", "more")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte, line = content[error.start], content.count(b"\n", 0, error.start) + 1
        raise TextMistakeError("text in UTF-8", f"the byte 0x{byte:02x}", line) from error


def parse(text: str) -> Node:
    """One YAML document. An empty one is an empty mapping."""
    events = _events(text)
    root = Node({}, 1)
    documents = 0
    for event in events:
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise TextMistakeError("one document", "a second one after ---", _line(event))
        elif isinstance(event, NodeEvent):
            root = _node(event, events, 0)
        elif isinstance(event, StreamEndEvent):
            break
    return root


def scalar(text: str) -> Scalar:
    """A plain scalar by YAML 1.2's core schema: null, true, 12, 0x1F, 1e-3, .inf, or text."""
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text[0] in "tT"
    number = _number(text)
    return text if number is None else number


def _number(text: str) -> int | float | None:
    if _INT.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text.replace("_", ""))
    if _HEX.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    return float(text.replace(".", "")) if _SPECIAL.fullmatch(text) else None


def _events(text: str) -> Iterator[Event]:
    try:
        for count, event in enumerate(YAML(typ="safe", pure=True).parse(text)):
            if count > MAX_EVENTS:
                raise TextMistakeError(f"at most {MAX_EVENTS} names and values", "more", _line(event))
            yield event
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        if "'\\t'" in str(error.problem):
            raise TextMistakeError("spaces for indentation", "a tab", line) from error
        raise TextMistakeError("valid YAML", _problem(error), line) from error
    except YAMLError as error:  # the reader's, which knows a position but no line
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise TextMistakeError("printable characters", repr(text[position : position + 1]), line) from error


def _problem(error: MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return ", ".join(parts)[:200] or "something else"


def _node(event: Event, events: Iterator[Event], depth: int) -> Node:
    line = _line(event)
    if depth > MAX_DEPTH:
        raise TextMistakeError(f"at most {MAX_DEPTH} levels", "more", line)
    if isinstance(event, AliasEvent) or getattr(event, "anchor", None) is not None:
        raise TextMistakeError("no anchors and aliases (& and *)", "one", line)
    if getattr(event, "tag", None) is not None:
        raise TextMistakeError("no tags (!)", repr(str(getattr(event, "tag", ""))[:60]), line)
    if isinstance(event, MappingStartEvent):
        return Node(_mapping(events, depth), line)
    if isinstance(event, SequenceStartEvent):
        return Node([_node(item, events, depth + 1) for item in _until_end(events)], line)
    if not isinstance(event, ScalarEvent):
        raise TextMistakeError("a value", type(event).__name__, line)
    return Node(scalar(event.value) if event.implicit[0] else event.value, line)


def _mapping(events: Iterator[Event], depth: int) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for event in _until_end(events):
        if not isinstance(event, ScalarEvent):
            raise TextMistakeError("a field's name", "a list or section as name", _line(event))
        name, line = event.value, _line(event)
        if name in found:
            raise TextMistakeError(f"each field once (first in line {found[name].line})", repr(name[:100]), line)
        found[name] = Node(_node(next(events), events, depth + 1).value, line)
    return found


def _until_end(events: Iterator[Event]) -> Iterator[Event]:
    """The events of a mapping or sequence up to its end; those in between that belong to children are theirs."""
    for event in events:
        if not isinstance(event, NodeEvent):
            return
        yield event


def _line(event: Event) -> int:
    return int(event.start_mark.line) + 1
