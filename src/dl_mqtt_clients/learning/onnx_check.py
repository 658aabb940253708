"""An ONNX graph from outside, looked through before ONNX Runtime sees it. Imports neither Keras nor onnx.

ONNX Runtime executes no code of a file, but it may load libraries for operators of foreign domains and open the files
that external data names: both are refused, and functions, which could hide either. What is left are ONNX's own
operators on tensors within the file. They may still ask for more memory or time than there is; only the size of the
file and the number of its parts are limited.

A minimal reader of protocol buffers: https://protobuf.dev/programming-guides/encoding and onnx.proto's field numbers.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from dl_mqtt_clients.errors import ModelError

MAX_GRAPH_BYTES: Final = 16 * 1024 * 1024  # of one without weights
MOST_PARTS: Final = 1_000_000  # fields looked at
MOST_DEPTH: Final = 24  # of messages in messages: about six graphs within graphs
DOMAINS: Final = (b"", b"ai.onnx")

# Which fields of a message are messages to look into: field number -> kind.
_PARTS: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 8: "opset", 14: "entry"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_REFUSED: Final[dict[str, dict[int, str]]] = {
    "model": {20: "training information", 25: "functions of its own"},
    "tensor": {13: "data in another file", 14: "data in another file"},
}
_DOMAIN: Final[dict[str, int]] = {"node": 7, "opset": 1}
_END_GROUP: Final = 4  # of old files; no ONNX model has groups
_LENGTHS: Final = {1: 8, 5: 4}  # of the wire types of fixed size


class _Field(NamedTuple):
    number: int
    value: int | memoryview  # a message, text or bytes; or a number


def check_graph(data: bytes | bytearray | memoryview, *, most_bytes: int) -> dict[str, str]:
    """ModelError unless these bytes are an ONNX model of nothing but standard operators; its metadata, by key."""
    if len(data) > most_bytes:
        raise ModelError(f"onnx: expected at most {most_bytes} bytes. Received: {len(data)}")
    found: dict[str, str] = {}
    graphs = parts = 0
    waiting = [("model", memoryview(data).cast("B"), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        graphs += kind == "graph"
        if kind == "entry":
            found.update(_entry(message))
        for field in _fields(message):
            parts += 1
            if parts > MOST_PARTS or depth > MOST_DEPTH:
                raise ModelError("onnx: expected a graph of sensible size. Received: too many parts")
            _check_field(kind, field)
            inner = _PARTS.get(kind, {}).get(field.number)
            if inner and isinstance(field.value, memoryview):
                waiting.append((inner, field.value, depth + 1))
    if not graphs:
        raise ModelError("onnx: expected an ONNX model. Received: one without a graph")
    return found


def _check_field(kind: str, field: _Field) -> None:
    refused = _REFUSED.get(kind, {}).get(field.number)
    if refused and field.value != 0:  # a location of 0 is the default: within the file
        raise ModelError(f"onnx: expected a graph that is all in its file. Received: {refused}")
    if field.number == _DOMAIN.get(kind) and isinstance(field.value, memoryview):
        domain = bytes(field.value[:100])
        if domain not in DOMAINS:
            raise ModelError(f"onnx: expected ONNX's own operators. Received: domain {domain.decode(errors='replace')}")


def _entry(message: memoryview) -> dict[str, str]:
    texts = {
        f.number: bytes(f.value).decode(errors="replace") for f in _fields(message) if not isinstance(f.value, int)
    }
    return {texts[1]: texts.get(2, "")} if 1 in texts else {}


def _fields(message: memoryview) -> Iterator[_Field]:
    place, end = 0, len(message)
    while place < end:
        tag, place = _number(message, place)
        kind = tag & 7 if tag < 2**32 else _END_GROUP  # other readers cut off what is beyond 32 bits
        if kind == 0:
            value, place = _number(message, place)
            yield _Field(tag >> 3, value)
            continue
        length = _LENGTHS.get(kind)
        if kind == 2:
            length, place = _number(message, place)
        if length is None or place + length > end:
            raise ModelError("onnx: expected an ONNX model. Received: other bytes, or not all of them")
        yield _Field(tag >> 3, message[place : place + length])
        place += length


def _number(message: memoryview, place: int) -> tuple[int, int]:
    """A variable-length integer of at most ten bytes, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ModelError("onnx: expected an ONNX model. Received: other bytes, or not all of them")
