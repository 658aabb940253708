"""Words in readings: the same code on every node, numbers as they are, and clear refusals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.categories import MAX_CODE, category_code
from dl_mqtt_clients.data.readings import ReadingParser
from dl_mqtt_clients.errors import DataError, MessageError

NAMES = ("bytes", "protocol", "count", "service")
CATEGORICAL = (1, 3)


def parser(features=NAMES):
    return ReadingParser(features, categorical=CATEGORICAL)


def test_a_word_has_one_code_for_ever():
    words = ("tcp", "udp", "", "größe")
    assert [category_code(word) for word in words] == [8703828.0, 9860979.0, 13551594.0, 8167729.0]


@given(st.text(max_size=256))
def test_codes_are_exact_in_32_bits(word):
    code = category_code(word)
    assert 0 <= code < MAX_CODE
    assert float(np.float32(code)) == code


def test_few_words_share_a_code():
    assert len({category_code(f"word {i}") for i in range(10_000)}) > 9_990


@given(st.integers(-MAX_CODE, MAX_CODE))
def test_a_whole_number_is_its_own_code(number):
    assert category_code(number) == category_code(float(number)) == number


@pytest.mark.parametrize("number", [0.5, MAX_CODE + 1, -MAX_CODE - 1, 1e300, math.inf, math.nan])
def test_other_numbers_are_refused(number):
    with pytest.raises(MessageError, match=r"category: expected a word, or a whole number within ±2\^24"):
        category_code(number)


TCP, HTTP = category_code("tcp"), category_code("http")
FORMS = {
    "values": b'{"data": [10, "tcp", 2.5, "http"]}',
    "rows": b'{"data": [[10, "tcp", 2.5, "http"], [1, 8, 2, "http"]]}',
    "object": b'{"data": {"service": "http", "bytes": 10, "protocol": "tcp", "count": 2.5}}',
    "objects": b'{"data": [{"service": "http", "bytes": 10, "protocol": "tcp", "count": 2.5}]}',
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_reading_may_hold_words(form):
    batch = parser().parse(FORMS[form])
    assert batch.x[0].tolist() == [10, TCP, 2.5, HTTP]
    assert len(batch) == (2 if form == "rows" else 1)
    if form == "rows":
        assert batch.x[1].tolist() == [1, 8, 2, HTTP]


def test_a_category_beyond_the_features_is_refused():
    with pytest.raises(DataError, match=r"categorical: expected places of 4 features\. Received: \[1, 4\]"):
        ReadingParser(4, categorical=(1, 4))


def test_features_without_names_may_be_words_as_well():
    assert parser(4).parse(FORMS["values"]).x.tolist() == [[10, TCP, 2.5, HTTP]]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"data": ["tcp", "tcp", 2.5, "http"]}', r"Expected `float`, got `str` - at `\$.data\[0\]`"),
        (b'{"data": [1, 0.5, 2.5, "http"]}', "expected a word, or a whole number"),
        (b'{"data": [1, null, 2.5, "http"]}', "got `null`"),
        (b'{"data": [1, "tcp", 2.5]}', "length"),
        (b'{"data": [1, "%s", 2.5, "http"]}' % (b"x" * 257), "length <= 256"),
        (b'{"data": [[1, "tcp", 2, "http"], [1, 1e9, 2, "http"]]}', "expected a word, or a whole number"),
    ],
)
def test_a_wrong_value_is_a_reason_and_nothing_of_its_message_is_used(payload, reason):
    with pytest.raises(MessageError, match=reason):
        parser().parse(payload)
    batch, reasons = parser().collect((payload, FORMS["values"]))
    assert len(reasons) == 1
    assert batch.x.tolist() == [[10, TCP, 2.5, HTTP]]
