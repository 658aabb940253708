"""Addresses, and how long to wait between attempts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import TransportError
from dl_mqtt_clients.transport.backoff import delays_s
from dl_mqtt_clients.transport.base import Address, open_transport
from dl_mqtt_clients.transport.memory import MemoryTransport
from dl_mqtt_clients.transport.mqtt import MqttTransport


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "place"),
    [
        ("mqtt://broker", "mqtt", "broker", 1883, "mqtt://broker:1883"),
        ("mqtts://broker", "mqtts", "broker", 8883, "mqtts://broker:8883"),
        ("mqtt://10.0.0.1:2883", "mqtt", "10.0.0.1", 2883, "mqtt://10.0.0.1:2883"),
        ("mqtt://[::1]:2883", "mqtt", "::1", 2883, "mqtt://[::1]:2883"),
        ("memory://test", "memory", "test", 0, "memory://test"),
    ],
)
def test_an_address_is_taken_apart(url, scheme, host, port, place) -> None:
    address = Address(url=url)
    assert (address.scheme, address.host, address.port, address.place) == (scheme, host, port, place)


@pytest.mark.parametrize(
    "url", ["", "broker", "http://broker", "mqtt://", "mqtt://broker:x", "mqtt://b:99999", "mqtt://[::1"]
)
def test_a_wrong_address_says_what_was_expected(url) -> None:
    with pytest.raises(TransportError, match="broker: expected"):
        Address(url=url)


def test_a_password_in_the_address_is_refused_without_being_shown() -> None:
    with pytest.raises(TransportError, match="own settings") as error:
        Address(url="mqtt://user:secret@broker")
    assert "secret" not in str(error.value)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Address(url="mqtt://broker", username="user", password="secret"))


def test_the_scheme_picks_the_transport() -> None:
    assert isinstance(open_transport(Address(url="memory://pick"), client_id="a"), MemoryTransport)
    assert isinstance(open_transport(Address(url="mqtt://pick"), client_id="a"), MqttTransport)


@given(st.randoms(use_true_random=False))
def test_delays_stay_between_the_first_and_the_longest_and_their_limit_doubles(random) -> None:
    delays = list(itertools.islice(delays_s(uniform=random.uniform), 20))
    assert all(0.25 <= delay <= 15 for delay in delays)
    assert all(delay <= 0.5 * 2**attempt for attempt, delay in enumerate(delays))


def test_the_longest_possible_delays_double_up_to_fifteen_seconds() -> None:
    longest = list(itertools.islice(delays_s(uniform=lambda _low, high: high), 8))
    assert longest == [0.5, 1, 2, 4, 8, 15, 15, 15]
