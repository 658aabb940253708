"""An ONNX file from outside: what it may not hold, and that no bytes do more than raise the one error."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.onnx_check import check_graph
from dl_mqtt_clients.wire.messages import Variable
from onnx_helpers import dense_graph, helper, model_of, node, onnx

FLOAT = onnx.TensorProto.FLOAT
VARIABLES = [
    Variable(role="scaler", shape=shape, dtype="float32", path=f"v{place}")
    for place, shape in enumerate([(6,), (6,), (6, 2), (2,), (2, 6), (6,)])
]
PLAIN = dense_graph(VARIABLES)


def changed(change) -> bytes:
    model = onnx.ModelProto.FromString(PLAIN)
    change(model)
    return model.SerializeToString()


def outside(tensor):
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def tensor(name="t"):
    return helper.make_tensor(name, FLOAT, [1], [1.0])


def branch(inner):
    """An `If` with this node in one of its branches."""
    result = helper.make_tensor_value_info("y", FLOAT, None)
    body = helper.make_graph([inner], "body", [], [result])
    return node("If", ["score"], "z", then_branch=body, else_branch=body)


def add_node(made):
    return lambda model: model.graph.node.append(made)


def external_initializer(model):
    outside(model.graph.initializer[0])


def external_attribute(model):
    constant = node("Constant", [], "c", value=tensor())
    outside(constant.attribute[0].t)
    model.graph.node.append(constant)


def external_sparse(model):
    model.graph.sparse_initializer.add()
    outside(model.graph.sparse_initializer[0].values)


def function(model):
    model.functions.add(name="f", domain="")


HOSTILE = [
    ("domain com.microsoft", add_node(node("Gelu", ["score"], "z", domain="com.microsoft"))),
    ("domain inner", add_node(branch(node("Any", ["score"], "y", domain="inner")))),
    ("domain x", lambda model: model.opset_import.append(helper.make_opsetid("x", 1))),
    ("data in another file", external_initializer),
    ("data in another file", external_attribute),
    ("data in another file", external_sparse),
    ("functions of its own", function),
    ("training information", lambda model: model.training_info.add()),
]


def test_a_plain_model_passes_and_tells_its_metadata():
    def note(model):
        helper.set_model_props(model, {"version": "7", "name": "Zähler"})

    assert check_graph(PLAIN, most_bytes=10**6) == {}
    assert check_graph(changed(note), most_bytes=10**6) == {"version": "7", "name": "Zähler"}
    harmless = add_node(branch(node("Relu", ["score"], "y")))
    assert check_graph(changed(harmless), most_bytes=10**6) == {}


@pytest.mark.parametrize(("reason", "change"), HOSTILE)
def test_what_reaches_outside_the_file_is_refused(reason, change):
    with pytest.raises(ModelError, match=f"onnx: expected .* Received: {reason}"):
        check_graph(changed(change), most_bytes=10**6)


def test_a_tag_that_other_readers_cut_off_is_refused():
    """Field 25 (functions) with a 33rd bit: protocol buffers' own reader drops the bit."""
    tag = (25 << 3 | 2) + 2**32
    encoded = bytes(((tag >> shift) & 0x7F) | 0x80 for shift in (0, 7, 14, 21)) + bytes([tag >> 28])
    with pytest.raises(ModelError, match="other bytes"):
        check_graph(PLAIN + encoded + b"\x00", most_bytes=10**6)


def test_size_depth_and_number_of_parts_are_limited():
    with pytest.raises(ModelError, match=f"at most 100 bytes. Received: {len(PLAIN)}"):
        check_graph(PLAIN, most_bytes=100)
    deep = node("Relu", ["score"], "y")
    for _ in range(20):
        deep = branch(deep)
        del deep.attribute[1]
    with pytest.raises(ModelError, match="too many parts"):
        check_graph(changed(add_node(deep)), most_bytes=10**6)
    many = bytes([7 << 3 | 2]) + _length(2 * 1_100_000) + bytes([2 << 3, 0]) * 1_100_000
    with pytest.raises(ModelError, match="too many parts"):
        check_graph(many, most_bytes=10**7)


def _length(value):
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


@pytest.mark.parametrize("data", [b"", b"{}", b"PK\x03\x04", b"\x3a", b"\xff" * 20])
def test_what_is_no_model_is_refused(data):
    with pytest.raises(ModelError, match="expected an ONNX model"):
        check_graph(data, most_bytes=10**6)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_do_more_than_be_refused(data):
    damaged = bytearray(PLAIN)
    for place in data.draw(st.lists(st.integers(0, len(PLAIN) - 1), max_size=5)):
        damaged[place] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(PLAIN)))] + data.draw(st.binary(max_size=40))
    with suppress(ModelError):
        check_graph(damaged, most_bytes=10**6)


def test_without_a_graph_it_is_no_model():
    empty = model_of(helper.make_graph([], "g", [], []))
    assert check_graph(empty, most_bytes=10**6) == {}
    with pytest.raises(ModelError, match="without a graph"):
        check_graph(onnx.ModelProto(ir_version=9).SerializeToString(), most_bytes=10**6)
