"""Topics and filters, against paho's own matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.filters import check_filter, check_topic, matches

levels = st.sampled_from(["a", "b", "", "$x"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = st.tuples(st.lists(st.one_of(levels, st.just("+")), max_size=3), st.sampled_from(["a", "+", "#"])).map(
    lambda parts: "/".join([*parts[0], parts[1]])
)


@given(filters, topics)
def test_filters_match_as_in_paho(topic_filter, topic) -> None:
    check_filter(topic_filter, 1)
    check_topic(topic, 0)
    assert matches(topic_filter, topic) == topic_matches_sub(topic_filter, topic)


@pytest.mark.parametrize(("topic_filter", "topic"), [("a/#", "a"), ("#", "a/b"), ("+/+", "/a"), ("a/+", "a/")])
def test_the_standards_corner_cases_match(topic_filter, topic) -> None:
    assert matches(topic_filter, topic)


def test_leading_wildcards_do_not_take_the_brokers_own_topics() -> None:
    assert not matches("#", "$SYS/uptime")
    assert not matches("+/uptime", "$SYS/uptime")
    assert matches("$SYS/#", "$SYS/uptime")


def test_a_qos_beyond_1_is_refused() -> None:
    with pytest.raises(TransportError, match="qos: expected 0 or 1"):
        check_topic("a", 2)
