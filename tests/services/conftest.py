"""Keras on the backend that KERAS_BACKEND names; a federation of the test's own name on each kind of broker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from brokers import Client, Connect
from dl_mqtt_clients.learning.backend import use_backend

BACKEND = use_backend()

from dl_mqtt_clients.config import Settings  # noqa: E402
from dl_mqtt_clients.services import status  # noqa: E402
from dl_mqtt_clients.transport.memory import MemoryBroker  # noqa: E402
from service_helpers import Watch, make_settings, start_manager, trainers  # noqa: E402

ROUNDS = 3


@pytest.fixture(autouse=True)
def quick_statuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests wait for statuses; half a second between two of them would be most of the time they take."""
    monkeypatch.setattr(status, "AT_MOST_EVERY_S", 0.03)


@pytest.fixture
def memory_url(unique_name: str) -> Iterator[str]:
    """A broker in memory of the test's own."""
    yield f"memory://{unique_name}"
    MemoryBroker.named(unique_name).forget()


@pytest.fixture
def memory_broker(memory_url: str, unique_name: str) -> MemoryBroker:
    return MemoryBroker.named(unique_name)


@pytest.fixture
def new_settings(tmp_path: Path, unique_name: str) -> Callable[..., Settings]:
    """`new_settings(url, rounds__count=3)`: of the test's own federation and folder."""

    def make(url: str, **changes: Any) -> Settings:
        return make_settings(tmp_path, url, federation__name=unique_name, **changes)

    return make


@pytest.fixture
def watch(connect: Connect, unique_name: str) -> Callable[..., Watch]:
    """`watch(url)`: hears all of the test's federation."""

    def start(url: str, name: str = "watch", **address: Any) -> Watch:
        client: Client = connect(url, name, **address)
        return Watch(client, unique_name)

    return start


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The version after three rounds of a, b and c, when nothing goes wrong: its hash says all bits of its weights."""
    settings = make_settings(
        tmp_path_factory.mktemp("undisturbed"), "memory://undisturbed", rounds__target_updates=3, rounds__min_updates=3
    )
    with trainers(settings):
        manager = start_manager(settings, rounds=ROUNDS).run()
    MemoryBroker.named("undisturbed").forget()
    return manager.versions.current.version
