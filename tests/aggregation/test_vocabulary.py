"""Vocabularies: the counts of nodes add up, rare values stay unknown, everybody numbers alike."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.vocabulary import UNKNOWN, CategoryCounts, Vocabulary, vocabulary_from
from dl_mqtt_clients.errors import RefusedError
from dl_mqtt_clients.wire.feature_sums import MAX_VALUES, CategorySums

columns = st.lists(st.sampled_from(["tcp", "udp", "icmp", "größe", "8"]), max_size=20)
of = CategoryCounts.of


@given(columns, columns)
def test_two_nodes_together_are_one_with_both_their_values(a, b):
    assert of(a) + of(b) == of(a + b)


@given(columns, columns, columns)
def test_the_order_of_nodes_does_not_matter(a, b, c):
    assert of(a) + of(b) == of(b) + of(a)
    assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c))


@given(st.lists(columns, min_size=1, max_size=5), st.integers(1, 4), st.randoms())
def test_the_vocabulary_does_not_depend_on_who_came_first(nodes, min_count, random):
    parts = [(str(number), of(values)) for number, values in enumerate(nodes)]
    first = vocabulary_from(dict(parts), min_count=min_count, min_nodes=0)
    random.shuffle(parts)
    assert vocabulary_from(dict(parts), min_count=min_count, min_nodes=0) == first


@given(columns)
def test_counts_come_back_from_their_message(values):
    text = msgspec.json.encode(of(values).to_message())
    assert CategoryCounts.from_message(msgspec.json.decode(text, type=CategorySums)) == of(values)


def test_listed_values_are_numbered_by_their_text_and_others_are_zero():
    vocabulary = vocabulary_from({"a": of(["udp", "tcp"]), "b": of(["tcp", 8])})
    assert vocabulary.values == ("8", "tcp", "udp")
    assert len(vocabulary) == 4
    assert vocabulary.encode(["udp", "icmp", 8, "tcp"]).tolist() == [3, UNKNOWN, 1, 2]


def test_a_rare_value_is_not_listed():
    parts = {"a": of(["tcp"] * 3 + ["root"]), "b": of(["tcp", "root"])}
    assert vocabulary_from(parts, min_count=3).values == ("tcp",)
    assert vocabulary_from(parts, min_count=2).values == ("root", "tcp")


def test_a_value_of_one_node_alone_is_not_told_to_the_others():
    parts = {"a": of(["tcp", *["alice"] * 1000]), "b": of(["tcp"])}
    assert vocabulary_from(parts, min_nodes=2).values == ("tcp",)


def test_of_too_many_the_most_frequent_are_listed_and_of_equals_the_first():
    parts = {"a": of(["d", "d", "c", "b", "a", "a"])}
    assert vocabulary_from(parts, max_size=3).values == ("a", "b", "d")


def test_fewer_nodes_than_agreed_are_refused():
    with pytest.raises(RefusedError, match=r"at least 2 nodes. Received: 1"):
        vocabulary_from({"a": of(["tcp"]), "silent": of([])}, min_nodes=2)


def test_a_node_can_keep_its_rare_values_to_itself():
    counts = of(["tcp", "tcp", "alice"], at_least=2)
    assert counts == CategoryCounts({"tcp": 2}, other=1)
    assert b"alice" not in msgspec.json.encode(counts.to_message())


def test_values_too_long_or_not_printable_are_counted_and_not_told():
    assert of(["x" * 257, "a\nb", "ok"]) == CategoryCounts({"ok": 1}, other=2)


def test_of_too_many_values_the_most_frequent_are_sent():
    counts = of([*range(MAX_VALUES + 5), 9_999, 10_004])
    message = counts.to_message()
    assert len(message.values) == MAX_VALUES
    assert set(message.values[:2]) == {"9999", "10004"}
    assert sum(message.counts) + message.other == MAX_VALUES + 7


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (CategorySums(values=("a", "a"), counts=(1, 1)), "distinct values"),
        (CategorySums(values=("a",), counts=(1, 1)), "as many counts"),
        (CategorySums(values=("a",), counts=(2**53,)), "at most 1099511627776"),
        (CategorySums(other=2**53), "at most 1099511627776"),
        (CategorySums(values=("a",), counts=(0,)), "above 0"),
        (CategorySums(other=-1), "above 0"),
        (CategorySums(values=("a\n",), counts=(1,)), "printable values"),
        (CategorySums(values=("a" * 257,), counts=(1,)), "at most 256 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hostile_counts_are_a_value_error(hostile, reason):
    with pytest.raises(ValueError, match=rf"^vocabulary: expected .*{reason}"):
        CategoryCounts.from_message(hostile)


@pytest.mark.parametrize("text", ['{"counts": [0]}', '{"other": -1}', '{"values": ["' + "x" * 257 + '"]}'])
def test_counts_out_of_range_do_not_decode(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=CategorySums)


def test_an_empty_vocabulary_knows_nothing():
    assert vocabulary_from({"a": of(["x"])}, min_count=2) == Vocabulary(())
    assert Vocabulary(()).encode(["x"]).tolist() == [UNKNOWN]
