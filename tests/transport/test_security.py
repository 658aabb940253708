"""User names, passwords and TLS against real brokers, with certificates made for the occasion."""

from pathlib import Path

import pytest

from brokers import Mosquitto, our_configuration, password_file
from certificates import Authority
from dl_mqtt_clients.transport.embedded import EmbeddedBroker

USERS = {"jetson-07/trainer": 'right "one" \u00fc', "manager": "other"}


@pytest.fixture(params=["embedded", "mosquitto"])
def guarded_url(request: pytest.FixtureRequest, tmp_path: Path):
    """A broker that lets only USERS in; Mosquitto with the project's own configuration."""
    if request.param == "embedded":
        with EmbeddedBroker(users=USERS) as broker:
            yield broker.url
    else:
        conf = our_configuration(tmp_path / "broker", users=USERS)
        with Mosquitto(tmp_path / "broker", conf=conf, anonymous=False, listener=False) as broker:
            yield broker.url


def test_the_right_password_is_accepted(guarded_url, connect) -> None:
    client = connect(guarded_url, username="jetson-07/trainer", password=USERS["jetson-07/trainer"])
    client.transport.subscribe("a")
    client.transport.publish("a", b"")
    client.wait_messages(1)


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"username": "manager", "password": "guess-1"},
        {"username": "nobody", "password": "other"},
        {"username": "manager"},
    ],
)
def test_a_wrong_password_is_refused_with_a_reason_that_names_it_and_never_shows_it(
    guarded_url, connect, credentials
) -> None:
    client = connect(guarded_url, wait=False, **credentials)
    client.wait(lambda: len(client.reasons) >= 2, "two reasons")
    assert client.connections == 0
    assert not client.transport.connected
    for reason in client.reasons:
        assert "refused: not authorized" in reason or "wrong user name or password" in reason
        assert "trying again in" in reason
        assert credentials.get("password", "guess") not in reason


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


def tls_broker(folder: Path, authority: Authority, *, host: str = "127.0.0.1", further: str = "") -> Mosquitto:
    certificate, key = authority.issue("broker", host=host)
    conf = f"listener {{port}} 127.0.0.1\ncafile {authority.ca_file}\ncertfile {certificate}\nkeyfile {key}\n{further}"
    return Mosquitto(folder / "broker", conf=conf, listener=False, scheme="mqtts")


def test_with_the_right_authority_large_and_small_messages_pass_through_tls(tmp_path, authority, connect) -> None:
    with tls_broker(tmp_path, authority) as broker:
        client = connect(broker.url, ca_file=authority.ca_file)
        client.transport.subscribe("a/#")
        payload = bytes(range(256)) * 8192
        for number in range(20):
            client.transport.publish(f"a/{number}", payload if number % 5 == 0 else b"small")
        client.wait_messages(20)
        assert client.payloads()[0] == payload
        assert client.payloads().count(b"small") == 16
        client.transport.stop()


def test_a_broker_of_another_authority_is_not_trusted(tmp_path, authority, connect) -> None:
    with tls_broker(tmp_path, authority) as broker:
        client = connect(broker.url, wait=False, ca_file=Authority(tmp_path, "other").ca_file)
        client.wait(lambda: len(client.reasons) >= 2, "two reasons")
        assert "certificate is not trusted" in client.reasons[0]
        client.transport.stop()


def test_a_broker_under_another_name_is_not_trusted(tmp_path, authority, connect) -> None:
    with tls_broker(tmp_path, authority, host="10.9.8.7") as broker:
        client = connect(broker.url, wait=False, ca_file=authority.ca_file)
        client.wait(lambda: client.reasons, "reason")
        assert "IP address mismatch" in client.reasons[0]
        client.transport.stop()


def test_a_client_certificate_is_shown_when_the_broker_wants_one(tmp_path, authority, connect) -> None:
    with tls_broker(tmp_path, authority, further="require_certificate true\n") as broker:
        certificate, key = authority.issue("jetson-07/trainer")
        refused = connect(broker.url, "without", wait=False, ca_file=authority.ca_file)
        client = connect(broker.url, ca_file=authority.ca_file, cert_file=certificate, key_file=key)
        refused.wait(lambda: refused.reasons, "reason")
        assert refused.connections == 0
        client.transport.stop()
        refused.transport.stop()


def test_plain_text_to_a_tls_port_and_tls_to_a_plain_port_are_reasons(tmp_path, authority, connect) -> None:
    with tls_broker(tmp_path, authority) as broker:
        client = connect(f"mqtt://127.0.0.1:{broker.port}", wait=False)
        client.wait(lambda: client.reasons, "reason")
        assert "before it let us in" in client.reasons[0]
        client.transport.stop()
    with Mosquitto(tmp_path / "plain") as plain:
        client = connect(f"mqtts://127.0.0.1:{plain.port}", "b", wait=False, ca_file=authority.ca_file)
        client.wait(lambda: client.reasons, "reason")
        assert "trying again in" in client.reasons[0]
        client.transport.stop()


@pytest.mark.parametrize("content", [None, b"no certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(tmp_path, connect, content) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_bytes(content)
    client = connect("mqtts://127.0.0.1:1", wait=False, ca_file=path)
    client.wait(lambda: client.reasons, "reason")
    assert f"ca_file: cannot use {path}" in client.reasons[0]


def test_password_files_are_what_mosquitto_reads(tmp_path) -> None:
    assert password_file(tmp_path / "passwd", {"a": "b"}).read_text().startswith("a:$7$101$")
