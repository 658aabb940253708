import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.readings import Batch, ReadingParser
from dl_mqtt_clients.data.replay import encode_readings
from dl_mqtt_clients.errors import DataError, MessageError

NAMES = ("temperature", "load", "current")
ROW = [1.5, 2, -3]


def parse(message, *, features=NAMES, **options) -> Batch:
    return ReadingParser(features, **options).parse(json.dumps(message).encode())


@pytest.mark.parametrize(
    "message",
    [
        {"data": ROW},
        {"data": [ROW]},
        {"data": {"current": -3, "load": 2, "temperature": 1.5, "unasked": "x"}},
        {"data": [dict(zip(NAMES, ROW, strict=True))]},
    ],
    ids=["values", "rows", "object", "objects"],
)
def test_every_form_gives_the_same_reading(message):
    batch = parse(message)
    np.testing.assert_array_equal(batch.x, np.array([ROW], np.float32))
    assert batch.x.dtype == np.float32
    assert batch.labels.dtype == np.int8
    assert (batch.labels.tolist(), batch.ids, batch.timestamps) == ([-1], [None], [None])


def test_id_timestamp_and_label_come_along():
    batch = parse({"data": ROW, "id": "a7", "timestamp": 12.5, "label": 1})
    assert (batch.labels.tolist(), batch.ids, batch.timestamps) == ([1], ["a7"], [12.5])


def test_lists_give_each_reading_its_own():
    batch = parse({"data": [ROW, ROW], "id": [7, "b"], "timestamp": ["x", None], "label": [0, True]})
    assert (batch.labels.tolist(), batch.ids, batch.timestamps) == ([0, 1], [7, "b"], ["x", None])


def test_one_id_for_many_readings_is_numbered_and_the_rest_is_shared():
    batch = parse({"data": [ROW, ROW], "id": "a", "timestamp": 3, "label": "normal"})
    assert (batch.labels.tolist(), batch.ids, batch.timestamps) == ([0, 0], ["a/0", "a/1"], [3, 3])


def test_a_named_readings_own_id_and_label_come_first():
    rows = [dict(zip(NAMES, ROW, strict=True)) | {"id": 5, "sus": 1}, dict(zip(NAMES, ROW, strict=True))]
    batch = parse({"data": rows, "id": "a", "sus": 0}, label="sus")
    assert (batch.labels.tolist(), batch.ids) == ([1, 0], [5, "a/1"])
    single = parse({"data": rows[0], "timestamp": 2}, label="sus")
    assert (single.labels.tolist(), single.ids, single.timestamps) == ([1], [5], [2])


def test_a_feature_may_be_called_like_an_extra():
    batch = parse({"data": {"id": 4, "label": 5}, "id": "a", "label": 0}, features=("id", "label"))
    assert batch.x.tolist() == [[4, 5]]
    assert (batch.ids, batch.labels.tolist()) == (["a"], [0])


@pytest.mark.parametrize(
    ("label", "expected"),
    [(0, 0), (1, 1), (127, 127), (2.0, 2), (True, 1), (False, 0), (None, -1), (-1, -1), ("", -1), ("3", 3),
     ("normal", 0), ("Benign", 0), (" Attack ", 1), ("anomalous", 1), ("true", 1), ("unknown", -1)],
)  # fmt: skip
def test_labels(label, expected):
    assert parse({"data": ROW, "label": label}).labels.tolist() == [expected]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "truncated"),
        (b"not json", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[1,2,3]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `data`"),
        (b'{"data": []}', "length >= 3"),
        (b'{"data": [1,2]}', "length >= 3"),
        (b'{"data": [1,2,3,4]}', "length <= 3"),
        (b'{"data": [[1,2,3],[1,2]]}', "length >= 3"),
        (b'{"data": [1,"2",3]}', "got `str`"),
        (b'{"data": [1,null,3]}', "got `null`"),
        (b'{"data": [1,true,3]}', "got `bool`"),
        (b'{"data": [1,NaN,3]}', "malformed"),
        (b'{"data": [1,1e999,3]}', "out of range"),
        (b'{"data": [1,1e19,3]}', "2^63"),
        (b'{"data": [[1,2,3],[1,-1e300,3]]}', "2^63"),
        (b'{"data": "secret"}', "got `str`"),
        (b'{"data": {"temperature": 1, "load": 2}}', "missing required field `current`"),
        (b'{"data": [{"temperature": 1, "load": 2, "current": "secret"}]}', "got `str`"),
        (b'{"data": [1,2,3], "label": "secret"}', "label"),
        (b'{"data": [1,2,3], "label": 128}', "label"),
        (b'{"data": [1,2,3], "label": 0.5}', "label"),
        (b'{"data": [1,2,3], "label": [0]}', "got `array`"),
        (b'{"data": [1,2,3], "id": {"a": 1}}', "got `object`"),
        (b'{"data": [1,2,3], "id": 123456789012345678901234567890}', "id"),
        (b'{"data": [1,2,3], "id": "' + b"x" * 201 + b'"}', "length <= 200"),
        (b'{"data": [1,2,3], "id": "\\ud800 half a pair"}', "malformed"),
        (b'{"data": [[1,2,3]], "label": [0,1]}', "one for each of 1"),
        (b'{"data": [[1,2,3]], "id": []}', "one for each of 1"),
        (b'{"data": ' + b"[" * 100_000, "recursion"),
        (b'{"data": [1,2,3], "x": ' + b'{"a":' * 100_000, "recursion"),
    ],
)
def test_a_malformed_message_has_a_short_reason_and_never_shows_the_payload(payload, reason):
    with pytest.raises(MessageError) as error:
        ReadingParser(NAMES).parse(payload)
    assert reason in str(error.value)
    assert "secret" not in str(error.value)
    assert len(str(error.value)) < 400


def test_names_need_to_be_configured():
    with pytest.raises(MessageError, match="no feature names are configured"):
        parse({"data": dict(zip(NAMES, ROW, strict=True))}, features=3)
    assert parse({"data": ROW}, features=3).x.shape == (1, 3)


def test_limits_on_bytes_and_rows():
    with pytest.raises(MessageError, match="at most 20 bytes"):
        parse({"data": [1.0, 2.0, 3.0, 4.0]}, max_bytes=20)
    with pytest.raises(MessageError, match="length <= 2"):
        parse({"data": [ROW] * 3}, max_rows=2)


@pytest.mark.parametrize("features", [(), ("a", "a"), ('quo"te',), 0])
def test_features_that_cannot_be_json_keys(features):
    with pytest.raises(DataError, match="features"):
        ReadingParser(features)


@pytest.mark.parametrize("label", ["data", "id", "timestamp"])
def test_the_label_needs_a_name_of_its_own(label):
    with pytest.raises(DataError, match="label"):
        ReadingParser(NAMES, label=label)


def test_many_messages_become_one_batch_and_each_malformed_one_a_reason():
    good = b'{"data": [1,2,3], "id": 1}'
    named = b'{"data": {"temperature": 4, "load": 5, "current": 6}, "id": 2}'
    many = b'{"data": [[7,8,9],[10,11,12]], "id": 3, "label": 1}'
    too_large = b'{"data": [[0,0,0],[1e300,0,0]]}'
    batch, reasons = ReadingParser(NAMES).collect([good, b"{", named, too_large, b'{"data": [1]}', many])
    assert batch.x.ravel().tolist() == list(range(1, 13))
    assert batch.ids == [1, 2, "3/0", "3/1"]
    assert batch.labels.tolist() == [-1, -1, 1, 1]
    assert batch.timestamps == [None] * 4
    assert len(reasons) == 3
    assert len(batch) == 4


def test_nothing_gives_an_empty_batch_of_the_right_width():
    batch, reasons = ReadingParser(NAMES).collect([b"{"])
    assert batch.x.shape == (0, 3)
    assert (batch.labels.shape, batch.ids, len(reasons)) == ((0,), [], 1)


numbers = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**62), max_value=2.0**62)


@given(
    st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5),
    st.data(),
    st.booleans(),
)
def test_what_the_generator_encodes_the_parser_reads(rows, data, named):
    n = len(rows)
    labels = data.draw(st.lists(st.integers(-1, 127), min_size=n, max_size=n))
    ids = data.draw(st.lists(st.text(max_size=5) | st.integers(-(2**63), 2**63 - 1), min_size=n, max_size=n))
    x = np.array(rows, np.float32)
    payload = encode_readings(x, labels, ids, list(range(n)), feature_names=NAMES if named else None)
    batch = ReadingParser(NAMES).parse(payload)
    np.testing.assert_array_equal(batch.x, x)
    assert (batch.labels.tolist(), batch.ids, batch.timestamps) == (labels, ids, list(range(n)))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["data", "id", "label", "timestamp", *NAMES])


@given(st.binary(max_size=60) | st.dictionaries(keys, json_values, max_size=4).map(lambda v: json.dumps(v).encode()))
def test_whatever_comes_the_outcome_is_a_finite_batch_or_a_message_error(payload):
    parser = ReadingParser(NAMES)
    try:
        batch = parser.parse(payload)
    except MessageError:
        return
    assert np.isfinite(batch.x).all()
    msgspec.json.encode([batch.ids, batch.timestamps])  # scores can carry them back


@given(st.lists(st.sampled_from([b'{"data":[1,2,3]}', b'{"data":[[1,2,3]]}', b"{", b'{"data":[1e300,0,0]}'])))
def test_collecting_is_parsing_each(payloads):
    parser = ReadingParser(NAMES)
    batch, reasons = parser.collect(payloads)
    alone = [ReadingParser(NAMES).collect([payload]) for payload in payloads]
    assert len(batch) == sum(len(one) for one, _ in alone)
    assert sorted(reasons) == sorted(reason for _, some in alone for reason in some)
    assert math.isclose(batch.x.sum(), sum(one.x.sum() for one, _ in alone))
