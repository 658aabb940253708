"""Vocabularies: the counts of nodes add up, rare values are not listed, everybody lists alike."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.vocabulary import CategoryCounts, padded, vocabulary_from
from dl_mqtt_clients.wire.feature_sums import MAX_CODE, MAX_VALUES, UNUSED, CategorySums

TCP, UDP, ICMP, ALICE = 8703828, 9860979, -3, 17
columns = st.lists(st.sampled_from([TCP, UDP, ICMP, 0, MAX_CODE]), max_size=20)
of = CategoryCounts.of


def vocabulary(*parts, **rules):
    return vocabulary_from(parts, **({"size": 100} | rules))


@given(columns, columns)
def test_two_nodes_together_are_one_with_both_their_values(a, b):
    assert of(a) + of(b) == of(a + b)


@given(columns, columns, columns)
def test_the_order_of_nodes_does_not_matter(a, b, c):
    assert of(a) + of(b) == of(b) + of(a)
    assert (of(a) + of(b)) + of(c) == of(a) + (of(b) + of(c))


@given(st.lists(columns, min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 3), st.randoms())
def test_the_vocabulary_does_not_depend_on_who_came_first(nodes, min_count, size, random):
    parts = [of(values) for values in nodes]
    first = vocabulary(*parts, min_count=min_count, size=size)
    random.shuffle(parts)
    assert vocabulary(*parts, min_count=min_count, size=size) == first


@given(columns)
def test_counts_come_back_from_their_message(values):
    text = msgspec.json.encode(of(values).to_message())
    assert CategoryCounts.from_message(msgspec.json.decode(text, type=CategorySums)) == of(values)


def test_listed_codes_rise_and_the_rest_of_the_places_is_unused():
    listed = vocabulary(of([UDP, TCP]), of([TCP, ICMP]))
    assert listed == (ICMP, TCP, UDP)
    assert padded(listed, 5).tolist() == [ICMP, TCP, UDP, UNUSED, UNUSED]
    assert padded((), 2).tolist() == [UNUSED, UNUSED]


def test_a_rare_value_is_not_listed():
    parts = of([TCP] * 3 + [ALICE]), of([TCP, ALICE])
    assert vocabulary(*parts, min_count=3) == (TCP,)
    assert vocabulary(*parts, min_count=2) == (ALICE, TCP)
    assert vocabulary(*parts, min_count=5) == ()


def test_a_value_of_one_node_alone_is_not_told_to_the_others():
    assert vocabulary(of([TCP, *[ALICE] * 1000]), of([TCP]), min_nodes=2) == (TCP,)


def test_of_too_many_the_most_frequent_are_listed_and_of_equals_the_first():
    assert vocabulary(of([4, 4, 3, 2, 1, 1]), size=3) == (1, 2, 4)


def test_of_too_many_values_the_most_frequent_are_sent():
    message = of([*range(MAX_VALUES + 5), 9_999, 10_004]).to_message()
    assert len(message.values) == MAX_VALUES
    assert set(message.values[:2]) == {9_999, 10_004}
    assert sum(message.counts) + message.other == MAX_VALUES + 7


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (CategorySums(values=(1, 1), counts=(1, 1)), "distinct values"),
        (CategorySums(values=(1,), counts=(1, 1)), "as many counts"),
        (CategorySums(values=(1,), counts=(2**53,)), "at most 1099511627776"),
        (CategorySums(other=2**53), "at most 1099511627776"),
        (CategorySums(values=(1,), counts=(0,)), "above 0"),
        (CategorySums(other=-1), "above 0"),
        (CategorySums(values=(MAX_CODE + 1,), counts=(1,)), "codes within"),
        (CategorySums(values=(UNUSED,), counts=(1,)), "codes within"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_hostile_counts_are_a_value_error(hostile, reason):
    with pytest.raises(ValueError, match=rf"^vocabulary: expected .*{reason}"):
        CategoryCounts.from_message(hostile)


@pytest.mark.parametrize("text", ['{"counts": [0]}', '{"other": -1}', '{"values": [16777217]}', '{"values": ["tcp"]}'])
def test_counts_out_of_range_do_not_decode(text):
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=CategorySums)
