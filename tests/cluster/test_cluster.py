"""The fleet as its operator and users see it: `make`, MQTT and `docker`. Each test goes on where the last one ended."""

import json
from collections.abc import Callable, Iterator

import pytest

from brokers import Client
from cluster.fleet import Fleet, changed
from dl_mqtt_clients.transport.base import Address, open_transport
from dl_mqtt_clients.wire.messages import History, Round, RoundReport
from service_helpers import Watch

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

CONFIGURATION = {
    "rounds": {"deadline_s": 120.0, "pause_s": 3.0, "history": 1000},
    "model": {"hidden": [8]},
    "training": {"learning_rate": 0.001, "window": 256, "min_readings": 64, "steps": 100},
    "data": {"rows": 4000},
    "generator": {"rate": 50.0},
}


@pytest.fixture
def watch(fleet: Fleet) -> Iterator[Callable[[], Watch]]:
    """`watch()`: hears the federation from outside, as the user `operator`, until the test ends."""
    clients: list[Client] = []

    def start() -> Watch:
        host = fleet.hosts[fleet.manager].get("ansible_host", "localhost")
        address = Address(url=f"mqtt://{host}:1883", username="operator", password=fleet.password)
        clients.append(Client(open_transport(address, client_id=f"operator-{len(clients)}")).start())
        watch = Watch(clients[-1])
        watch.deadline_s = 180.0
        return watch

    yield start
    for client in clients:
        client.transport.stop()


def merged(watch: Watch, more: int = 1, *, since: int = 0) -> list[RoundReport]:
    """Reports of all rounds, once `more` were merged after round `since`."""

    def enough(history: History) -> bool:
        return sum(r.round > since and r.outcome == "merged" for r in history.rounds) >= more

    return list(watch.wait(watch.topics.history, History, enough, f"{more} more rounds").rounds)


def last_round(watch: Watch) -> int:
    return merged(watch)[-1].round


def nodes_of(report: RoundReport) -> set[str]:
    return {participant.node for participant in report.participants}


def assert_none_lost(reports: list[RoundReport], *, since: int = 0) -> None:
    """Every round after `since` was merged, one after another; none was abandoned and tried again."""
    after = [r for r in reports if r.round > since]
    assert [r.round for r in after if r.outcome == "abandoned"] == []
    numbers = [r.round for r in after if r.outcome == "merged"]
    assert numbers == list(range(since + 1, since + 1 + len(numbers)))


def swarm_nodes(fleet: Fleet) -> dict[str, str]:
    """Host name -> `Ready Active`, as the manager's Docker says."""
    lines = fleet.docker(
        fleet.manager, "node ls --format '{% raw %}{{.Hostname}}={{.Status}} {{.Availability}}{% endraw %}'"
    )
    return dict(line.split("=") for line in lines)


def containers(fleet: Fleet, host: str) -> list[str]:
    return sorted(
        line.split(".")[0]
        for line in fleet.docker(host, "ps --format '{% raw %}{{.Names}}{% endraw %}'")
        if "fedlearn" in line
    )


def test_make_all_brings_bare_machines_to_three_finished_rounds(fleet, watch):
    fleet.configure(**CONFIGURATION)
    fleet.on(fleet.manager, "docker volume create bystander && docker network create bystander")
    fleet.on(fleet.groups["worker_train"][0], "printf '%s' '{\"labels\": [\"site=north\"]}' >/etc/docker/daemon.json")
    fleet.make("all", "--check")  # of machines where nothing is yet
    assert containers(fleet, fleet.manager) == []
    fleet.make("all")
    with fleet.step("three rounds"):
        reports = merged(watch(), 3)
    first, second = fleet.groups["worker_train"]
    assert nodes_of(reports[-1]) == {first, second}
    assert containers(fleet, fleet.manager) == ["fedlearn_broker", "fedlearn_manager", "fedlearn_registry"]
    assert containers(fleet, first) == [f"fedlearn_{n}" for n in ("data_broker", "generator", "predictor", "trainer")]
    assert containers(fleet, second) == [f"fedlearn_{n}" for n in ("data_broker", "generator", "trainer")]
    settings = json.loads(fleet.on(first, "cat /etc/docker/daemon.json"))
    assert settings["labels"] == ["site=north"]  # merged, not overwritten
    assert settings["insecure-registries"]


def test_a_second_run_changes_nothing_nor_would_a_check_change_anything(fleet):
    assert set(changed(fleet.make("all")).values()) == {0}
    assert set(changed(fleet.make("all", "--check")).values()) == {0}


def test_a_worker_joins_and_one_leaves_while_rounds_go_on(fleet, watch):
    first, second = fleet.groups["worker_train"]
    third = next(name for name in fleet.hosts if name not in (fleet.manager, first, second))
    seen = watch()
    before = last_round(seen)
    fleet.write(worker_train=[first, third], decomissioned_workers=[second])
    fleet.make("scale_swarm")
    reports = merged(watch(), 2, since=last_round(watch()))
    assert_none_lost(reports, since=before)
    assert len([r for r in reports if r.round > before]) > 2
    fleet.until(lambda: nodes_of(merged(watch())[-1]) == {first, third}, "round of the new fleet")
    assert swarm_nodes(fleet).keys() == {fleet.manager, first, third}
    assert containers(fleet, second) == []
    assert seen.status(second, lambda s: s.state == "stopped")  # it said goodbye: no round waits for it
    assert fleet.docker(second, "info --format '{% raw %}{{.Swarm.LocalNodeState}}{% endraw %}'") == ["inactive"]


def test_a_new_configuration_changes_the_learning_rate_and_loses_no_round(fleet, watch):
    images = fleet.docker(fleet.manager, "images -q")
    seen = watch()
    before = last_round(seen)
    training = {
        **CONFIGURATION["training"],
        "learning_rate": 0.0005,
        "steps": 8000,
    }  # seconds: killed below
    fleet.configure(**{**CONFIGURATION, "training": training, "rounds": {**CONFIGURATION["rounds"], "pause_s": 0.0}})
    fleet.make("update_fedLearn_configuration")
    announced = watch().announced(lambda r: r.phase == "open" and r.training.learning_rate == 0.0005)
    reports = merged(watch(), 1, since=announced.round - 1)
    assert_none_lost(reports, since=before)
    assert fleet.docker(fleet.manager, "images -q") == images  # nothing was built


def test_a_workers_docker_may_die_and_come_back(fleet, watch):
    worker = fleet.groups["worker_train"][1]
    fleet.on(worker, "kill -9 $(pidof dockerd)")
    with fleet.step("Docker killed: seen"):
        fleet.until(lambda: swarm_nodes(fleet).get(worker, "").startswith("Down"), "node that is Down")
    fleet.on(worker, "service docker start")
    with fleet.step("Docker back: its trainer takes part"):
        fleet.until(lambda: swarm_nodes(fleet).get(worker) == "Ready Active", "node that is Ready")
        fleet.until(lambda: "fedlearn_trainer" in containers(fleet, worker), "trainer on it")
        after = last_round(watch())
        fleet.until(lambda: any(worker in nodes_of(r) for r in merged(watch()) if r.round > after), "round with it")


def test_the_manager_may_be_killed_and_the_same_round_goes_on(fleet, watch):
    seen = watch()
    before = last_round(seen)
    container = fleet.docker(fleet.manager, "ps -q --filter name=fedlearn_manager")[0]
    with fleet.step("manager killed: the round merged"):
        fleet.docker(fleet.manager, f"kill --signal KILL {container}")
        seen.manager(lambda status: status.state == "lost")
        announced = seen.seen(seen.topics.round, Round)[-1]
        assert announced.phase == "open"
        reports = merged(watch(), 1, since=max(announced.round, before))
    assert (announced.round, announced.attempt, "merged") in [(r.round, r.attempt, r.outcome) for r in reports]
    assert_none_lost(reports, since=before)
    assert watch().announced(lambda _r: True).generation == announced.generation


def test_a_rebuilt_model_begins_a_new_generation(fleet, watch):
    old = watch().manifest()
    fleet.configure(**{**CONFIGURATION, "model": {"hidden": [6]}})
    fleet.make("rebuild_model")
    with fleet.step("a round of the new model"):
        new = watch().manifest("global", lambda m: m.generation > old.generation and m.number > 0)
    assert new.lineage != old.lineage
    assert new.number < old.number


def test_destroying_it_leaves_the_updated_model_and_what_others_made(fleet, watch):
    newest = watch().manifest("production")
    fleet.make("destroy_docker_swarm")
    facts = json.loads((fleet.saved / "version.json").read_text(encoding="utf-8"))
    assert facts["generation"] == newest.generation
    assert facts["number"] >= newest.number
    assert (fleet.saved / "model.keras").stat().st_size > 0
    here = "/var/lib/fedlearn/artifacts/updated_model/version.json"
    assert json.loads(fleet.on(fleet.manager, f"cat {here}")) == facts
    for host in fleet.hosts:
        assert fleet.docker(host, "ps --all --quiet") == []
        assert fleet.docker(host, "info --format '{% raw %}{{.Swarm.LocalNodeState}}{% endraw %}'") == ["inactive"]
        volumes = fleet.docker(host, "volume ls --quiet")
        assert volumes == (["bystander"] if host == fleet.manager else [])
    assert "bystander" in fleet.docker(fleet.manager, "network ls --format '{% raw %}{{.Name}}{% endraw %}'")
    assert json.loads(fleet.on(fleet.groups["worker_train"][0], "cat /etc/docker/daemon.json"))["labels"] == [
        "site=north"
    ]
