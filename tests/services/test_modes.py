"""Modes, strategies, codecs and attributes, each in a whole federation in memory."""

import json
from collections import Counter

import numpy as np
import pytest

from dl_mqtt_clients.errors import ConfigurationError
from dl_mqtt_clients.services.trainer import Trainer
from dl_mqtt_clients.wire.messages import Round
from service_helpers import readings, start_manager, trainers

RULE = """
from dataclasses import dataclass

from dl_mqtt_clients.aggregation.strategies import Facts, Part, Share


@dataclass(frozen=True)
class trust_weighted(Part):
    doubted: str = "c"

    def weigh(self, update: Facts) -> Share:
        return Share(0.0 if update.node == self.doubted else float(update.examples))
"""


def federate(settings, rounds=6, nodes=("a", "b", "c")):
    """Reports of the rounds, and the manager."""
    reports = []
    with trainers(settings, nodes):
        manager = start_manager(settings, rounds=rounds, on_round=reports.append).run()
    return reports, manager


@pytest.mark.parametrize(
    "strategy",
    [
        "FedAvgM(momentum=0.5) @ UniformMean",
        "FedAdam(lr=0.05) @ ClipNorm(1.0)",
        "FedYogi(lr=0.05)",
        "FedAdagrad(lr=0.1)",
        "Median",
        "TrimmedMean(0.3) @ AdaptiveClip",
        "FedAvg @ MedianClip",
        "MultiKrum(f=0, m=2)",
        "FedNova",
    ],
)
def test_a_strategy_named_in_the_settings_learns(memory_url, new_settings, strategy):
    settings = new_settings(memory_url, rounds__target_updates=3, rounds__min_updates=3, rounds__strategy=strategy)
    reports, manager = federate(settings, rounds=8)
    assert reports[-1].metrics.loss < reports[0].metrics.loss
    assert not manager.last_error


def test_a_stateful_strategy_goes_on_after_a_restart_as_if_there_had_been_none(memory_url, new_settings, tmp_path):
    changes = {"rounds__target_updates": 3, "rounds__min_updates": 3, "rounds__strategy": "FedAdam(lr=0.05)"}
    _, whole = federate(new_settings(memory_url, node__state_dir=str(tmp_path / "whole"), **changes), rounds=4)
    apart = new_settings(memory_url, node__state_dir=str(tmp_path / "apart"), **changes)
    federate(apart, rounds=2)
    _, again = federate(apart, rounds=4)
    assert again.versions.current.version == whole.versions.current.version


def test_a_rule_of_ones_own_in_a_file_outside_the_package(memory_url, new_settings, tmp_path):
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "my_rules.py").write_text(RULE)
    settings = new_settings(
        memory_url,
        rounds__target_updates=3,
        rounds__min_updates=3,
        rounds__strategy="my_rules:trust_weighted",
        rounds__rules_folder=str(folder),
    )
    _, without_c = federate(settings, rounds=1)
    plain = new_settings(
        memory_url, rounds__target_updates=2, rounds__min_updates=2, node__state_dir=str(tmp_path / "2")
    )
    _, two = federate(plain, rounds=1, nodes=("a", "b"))
    for ours, theirs in zip(without_c.versions.weights, two.versions.weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_a_strategy_that_fails_does_not_end_the_federation(memory_url, new_settings, tmp_path, monkeypatch):
    failing = "class broken:\n    def reduce(self, stack):\n        raise RuntimeError('no idea')\n"
    (tmp_path / "bad_rules.py").write_text(failing)
    monkeypatch.chdir(tmp_path)
    settings = new_settings(memory_url, rounds__target_updates=1, rounds__strategy="bad_rules:broken")
    reports = []

    def end_after_two(report):
        reports.append(report)
        if len(reports) == 2:
            manager.stop()

    with trainers(settings, ("a",)):
        manager = start_manager(settings, on_round=end_after_two)
        manager.run()
    assert [r.outcome for r in reports] == ["abandoned", "abandoned"]
    assert "no idea" in manager.last_error


@pytest.mark.parametrize("name", ["float16", "bfloat16", "int8", "int4", "topk:0.2"])
def test_a_codec_learns_too(memory_url, new_settings, name):
    settings = new_settings(
        memory_url, rounds__target_updates=3, rounds__min_updates=3, transfer__codec=name, rounds__strategy="Median"
    )
    reports, _ = federate(settings, rounds=8)
    assert reports[-1].metrics.loss < reports[0].metrics.loss


def test_what_topk_leaves_out_is_kept_on_disk_for_the_next_update(memory_url, new_settings, tmp_path):
    model = {"hidden": (32, 8, 32)}  # tensors large enough to be coded
    settings = new_settings(memory_url, rounds__target_updates=1, transfer__codec="topk:0.01")
    from service_helpers import core

    with trainers(settings, ("a",)):
        start_manager(settings, model=core(**model), rounds=2).run()
    (kept,) = (tmp_path / "state" / "a" / "trainer" / "own").rglob("residual.safetensors")
    assert kept.stat().st_size > 0


def test_asynchronous_rounds_count_late_updates_and_no_node_twice_a_round(memory_url, new_settings):
    settings = new_settings(memory_url, rounds__mode="async", rounds__target_updates=2, rounds__max_staleness=20)
    reports, _ = federate(settings, rounds=12)
    staleness = Counter(p.staleness for r in reports for p in r.participants)
    assert all(len(r.participants) == len({p.node for p in r.participants}) == 2 for r in reports)
    assert sum(n for late, n in staleness.items() if late > 0) > 0
    assert {p.node for r in reports for p in r.participants} == {"a", "b", "c"}
    assert reports[-1].metrics.loss < reports[0].metrics.loss


@pytest.mark.parametrize(
    ("mode", "written", "used"),
    [
        ("async", "FedAdam(lr=0.05)", "FedAdam(lr=0.05) @ PolynomialStaleness"),
        ("async", "FedAvg @ HingeStaleness", "FedAvg @ HingeStaleness"),
        ("sync", "FedAdam(lr=0.05)", "FedAdam(lr=0.05)"),
    ],
)
def test_asynchronous_rounds_weigh_staleness_unless_the_strategy_does(
    memory_url, new_settings, tmp_path, mode, written, used
):
    settings = new_settings(memory_url, rounds__mode=mode, rounds__target_updates=1, rounds__strategy=written)
    federate(settings, rounds=1, nodes=("a",))
    stages = next((tmp_path / "state").rglob("stages.json"))
    assert json.loads(stages.read_text())["strategy"] == used


def test_only_nodes_with_the_required_attributes_take_part(memory_url, new_settings):
    settings = new_settings(memory_url, rounds__require=("gpu=true",))
    strong = settings.replace(**{"node.attributes": ("gpu=true", "site=north")})
    reports = []
    with (
        Trainer("strong", settings=strong, readings=readings(1)),
        Trainer("weak", settings=settings, readings=readings(2)) as weak,
    ):
        start_manager(settings, rounds=2, on_round=reports.append).run()
        status = weak.current_status()
    assert [[p.node for p in r.participants] for r in reports] == [["strong"], ["strong"]]
    assert [r.asked for r in reports] == [1, 1]
    assert status.accepted == 0


def test_over_selection_asks_more_nodes_than_it_needs(memory_url, new_settings):
    nodes = [f"n{i}" for i in range(6)]
    settings = new_settings(memory_url, rounds__target_updates=2, rounds__over_selection=1.5)
    reports, _ = federate(settings, rounds=6, nodes=nodes)
    asked = [r.asked for r in reports[1:]]  # the first round begins before anybody was heard
    assert sum(asked) < 6 * len(asked)
    assert max(len(r.participants) for r in reports) == 2
    assert all(r.seconds < settings.rounds.deadline_s for r in reports)  # a small cohort is not waited for


def test_local_work_is_what_was_announced(memory_url, new_settings):
    settings = new_settings(
        memory_url,
        rounds__target_updates=2,
        rounds__min_updates=2,
        training__steps=10,
        training__optimizer="SGD(learning_rate=0.05, momentum=0.9)",
        training__objective="FedProx(mu=0.1)",
    )
    slow = settings.replace(**{"node.max_steps": 3})
    reports = []
    with (
        Trainer("slow", settings=slow, readings=readings(1)),
        Trainer("other", settings=settings, readings=readings(2)),
    ):
        start_manager(settings, rounds=3, on_round=reports.append).run()
    examples = {p.node: p.examples for p in reports[0].participants}
    assert examples == {"slow": 3 * 32, "other": 10 * 32}
    assert reports[-1].metrics.loss < reports[0].metrics.loss


@pytest.mark.parametrize(
    ("field", "value"),
    [("objective", "SCAFFOLD"), ("objective", "FedProx"), ("optimizer", "SDG"), ("optimizer", "SGD(nesterov=exec)")],
)
def test_local_work_that_nobody_could_do_is_a_mistake(memory_url, new_settings, field, value):
    with pytest.raises(ConfigurationError, match=rf"training\.{field}"):
        start_manager(new_settings(memory_url, **{f"training__{field}": value}))


def test_a_wrong_strategy_and_a_wrong_codec_are_reported_together(memory_url, new_settings):
    settings = new_settings(memory_url, rounds__strategy="FedAdm", transfer__codec="int7")
    with pytest.raises(ConfigurationError) as caught:
        start_manager(settings)
    assert [m.partition(":")[0] for m in caught.value.mistakes] == ["rounds.strategy", "transfer.codec"]
    assert "did you mean FedAdam?" in caught.value.mistakes[0]


def test_the_learning_rate_decays_from_round_to_round(memory_url, new_settings, watch):
    settings = new_settings(
        memory_url, rounds__target_updates=1, training__learning_rate=0.01, training__learning_rate_decay=0.5,
        training__learning_rate_minimum=0.004,
    )  # fmt: skip
    seen = watch(memory_url)
    federate(settings, rounds=3, nodes=("a",))
    rates = {r.round: r.training.learning_rate for r in seen.seen(seen.topics.round, Round) if r.phase == "open"}
    assert rates == {1: 0.01, 2: 0.005, 3: 0.004}


def test_a_node_does_its_own_way_what_its_operator_lets_it(memory_url, new_settings):
    settings = new_settings(memory_url, rounds__target_updates=2, rounds__min_updates=2)
    slow = settings.replace(**{"node.overrides": ("window", "batch_size"), "training.window": 64})
    reports = []
    with (
        Trainer("slow", settings=slow, readings=readings(1)),
        Trainer("other", settings=settings, readings=readings(2)),
    ):
        start_manager(settings, rounds=1, on_round=reports.append).run()
    assert {p.node: p.examples for p in reports[0].participants}["slow"] == 64
    assert {p.node: p.examples for p in reports[0].participants}["other"] > 400
