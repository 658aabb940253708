"""Two processes under one name: the older gives way. Our own past is no second process."""

import msgspec
import pytest

from dl_mqtt_clients.errors import DuplicateInstanceError, StateError
from dl_mqtt_clients.services import status as status_module
from dl_mqtt_clients.services.predictor import Predictor
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import ManagerStatus, NodeStatus
from service_helpers import readings, start_manager, until


@pytest.fixture(params=["memory", "mosquitto"])
def url(request, memory_url):
    """Not the embedded broker: rumqttd sends out the newcomer's will when it throws out the older client, whose own
    status is then all that either of them ever finds; there only the lock of the folder helps."""
    return memory_url if request.param == "memory" else request.getfixturevalue(f"shared_{request.param}_url")


def make(role, settings):
    if role == "manager":
        return start_manager(settings)
    if role == "trainer":
        return Trainer("twin", settings=settings, readings=readings(1))
    return Predictor("twin", settings=settings)


def topic_of(role, topics):
    return topics.manager_status if role == "manager" else topics.status("twin", role)


@pytest.mark.parametrize("role", ["manager", "trainer", "predictor"])
def test_the_older_of_two_stops_and_the_newer_has_the_last_word(url, new_settings, watch, tmp_path, role):
    settings = new_settings(url)
    seen = watch(url)
    topic, kind = topic_of(role, seen.topics), ManagerStatus if role == "manager" else NodeStatus
    older, newer = (make(role, settings.replace(**{"node.state_dir": str(tmp_path / name)})) for name in ("1", "2"))
    older.__enter__()
    seen.wait(topic, kind, lambda s: s.instance == older._instance)
    with newer:
        until(lambda: not older._thread.is_alive())
        with pytest.raises(DuplicateInstanceError, match=r"another process .* runs under this name"):
            older.wait()
        until(lambda: newer_speaks(seen, topic, kind, newer))
        assert newer._thread.is_alive()
    assert msgspec.json.decode(seen.retained(url)[topic].payload)["instance"] == newer._instance


def newer_speaks(seen, topic, kind, newer):
    last = seen.seen(topic, kind)[-1]
    return last.instance == newer._instance and last.state != "lost"


@pytest.mark.parametrize("role", ["manager", "trainer", "predictor"])
def test_our_own_past_that_a_broker_brings_back_is_no_second_process(memory_url, new_settings, watch, role):
    """A restarted broker may have kept any of our earlier statuses, or publish the will of a connection long gone."""
    settings = new_settings(memory_url)
    seen = watch(memory_url)
    topic, kind = topic_of(role, seen.topics), ManagerStatus if role == "manager" else NodeStatus
    past = []
    for _ in range(3):
        with make(role, settings) as service:
            seen.wait(topic, kind, lambda s, i=service._instance: s.instance == i and s.state != "lost")
        past.append(service._instance)
    with make(role, settings) as service:
        seen.wait(topic, kind, lambda s: s.instance == service._instance)
        until(lambda: own_board(service)._heard_ourselves)
        for instance, state in [*((i, "waiting") for i in past), (service._instance, "lost"), ("", "lost")]:
            before = len(seen.seen(topic, kind))
            old = msgspec.json.encode(kind(state=state, instance=instance))
            seen.client.transport.publish(topic, old, retain=True)
            seen.client.wait(lambda b=before: len(seen.seen(topic, kind)) > b + 1)  # it says again how it is
            last = seen.seen(topic, kind)[-1]
            assert (last.instance, last.state != "lost") == (service._instance, True)
        assert service._thread.is_alive()


def own_board(service):
    return service._status if hasattr(service, "_status") else service.status


def test_a_stranger_found_at_our_topic_when_we_come_is_the_past(memory_url, new_settings, watch):
    """Another machine had this name before: it may be switched off for good."""
    seen = watch(memory_url)
    topic = seen.topics.status("twin", "trainer")
    old = msgspec.json.encode(NodeStatus(state="waiting", instance="another"))
    seen.client.transport.publish(topic, old, retain=True)
    with make("trainer", new_settings(memory_url)) as service:
        seen.status("twin", lambda s: s.instance == service._instance)
        until(lambda: own_board(service)._heard_ourselves)
        seen.client.transport.publish(topic, old, retain=True)
        seen.client.wait(lambda: seen.seen(topic, NodeStatus)[-1].instance == service._instance)
        unknown = msgspec.json.encode(NodeStatus(state="waiting", instance="a third"))
        seen.client.transport.publish(topic, unknown, retain=True)
        until(lambda: not service._thread.is_alive())
        with pytest.raises(DuplicateInstanceError):
            service.wait()


def test_a_second_process_in_the_same_folder_does_not_even_start(memory_url, new_settings, watch):
    settings = new_settings(memory_url)
    seen = watch(memory_url)
    with make("trainer", settings) as first:
        seen.status("twin", lambda s: s.instance == first._instance)
        with pytest.raises(StateError, match="another process works in this folder"):
            make("trainer", settings).run()
        assert first._thread.is_alive()
    assert {s.instance for s in seen.seen(seen.topics.status("twin", "trainer"), NodeStatus)} == {first._instance}
    with make("trainer", settings) as again:  # free again
        seen.status("twin", lambda s: s.instance == again._instance)


def test_the_list_of_instances_stays_short_and_may_be_damaged(memory_url, new_settings, watch, tmp_path):
    path = tmp_path / "state" / "twin" / "trainer" / "instances"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe" * 100)
    settings = new_settings(memory_url)
    seen = watch(memory_url)
    with make("trainer", settings) as first:
        seen.status("twin", lambda s: s.instance == first._instance)
    assert path.read_text().split() == [first._instance]
    path.write_text("\n".join(f"{n:016x}" for n in range(500)))
    with make("trainer", settings) as second:
        seen.status("twin", lambda s: s.instance == second._instance)
    assert len(path.read_text().split()) == status_module.REMEMBERED + 1


def test_a_crashed_process_is_no_obstacle_to_its_successor(memory_url, memory_broker, new_settings, watch):
    settings = new_settings(memory_url)
    seen = watch(memory_url)
    for _ in range(2):
        service = make("trainer", settings)
        service.__enter__()
        seen.status("twin", lambda s, i=service._instance: s.instance == i)
        memory_broker.drop("twin:trainer")  # as the broker sees a kill -9: its will goes out
        seen.status("twin", lambda s, i=service._instance: s.instance == i and s.state == "lost")
        service.__exit__(None, None, None)
    with make("trainer", settings) as last:
        seen.status("twin", lambda s: s.instance == last._instance)
        until(lambda: own_board(last)._heard_ourselves)
        assert last._thread.is_alive()
