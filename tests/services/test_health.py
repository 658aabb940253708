"""The pulse of a service."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.services.health import FILE, Health, Pulse, folder_of
from dl_mqtt_clients.services.trainer import Trainer
from service_helpers import make_settings, readings, start_manager, until


def test_a_service_has_heard_itself_once_it_is_connected(tmp_path, broker_url, unique_name):
    settings = make_settings(tmp_path, broker_url, federation__name=unique_name)
    folder = folder_of(settings, "trainer")
    with Trainer(settings.node_id, settings=settings, readings=readings()):
        until(lambda: Health.read(folder).heard_s < math.inf)
        assert Health.read(folder).turned_s <= Health.read(folder).heard_s


def test_the_manager_too(tmp_path, broker_url, unique_name):
    settings = make_settings(tmp_path, broker_url, federation__name=unique_name)
    with start_manager(settings):
        until(lambda: Health.read(folder_of(settings, "manager")).heard_s < math.inf)


def test_without_a_broker_the_loop_turns_and_nothing_is_heard(tmp_path):
    settings = make_settings(tmp_path, "mqtt://127.0.0.1:1")
    service = Trainer("a", settings=settings, readings=readings())
    with service:
        service.loop.post(lambda: service.status.changed(now=True))
        until(lambda: Health.read(service.folder).turned_s < math.inf)
    assert Health.read(service.folder).heard_s == math.inf


@given(st.floats(0, 1e9), st.floats(0, 1e9))
def test_an_age_is_never_negative(tmp_path_factory, then, now):
    folder = tmp_path_factory.getbasetemp()
    (folder / FILE).write_text(f"{then} {then}\n")
    assert Health.read(folder, now=now).turned_s == (now - then if then <= now else math.inf)


@pytest.mark.parametrize("text", ["", "1", "1 2 3", "a b", "nan nan", "\xff 1"])
def test_a_broken_file_is_no_sign_of_life(tmp_path, text):
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert Health.read(tmp_path, now=10.0) == Health(math.inf, math.inf)


def test_a_folder_that_is_gone_ends_no_service(tmp_path):
    Pulse(tmp_path / "gone").heard()
    assert Health.read(tmp_path / "gone") == Health()
