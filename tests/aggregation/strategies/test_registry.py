"""Strategies from plain data, and from files outside the package."""

import sys

import numpy as np
import pytest

from dl_mqtt_clients.aggregation.strategies import (
    ClipNorm,
    FedAdam,
    FedAvg,
    FedYogi,
    Krum,
    Mean,
    Median,
    PolynomialStaleness,
    Strategy,
    TrimmedMean,
    parse_strategy,
    registry,
)
from dl_mqtt_clients.errors import ConfigurationError
from strategy_helpers import SIZE, flat, merge, updates_of


def test_the_long_form_is_step_reduction_and_transforms():
    data = {
        "step": {"name": "fedadam", "lr": 0.01},
        "reduction": {"name": "trimmed_mean", "share": 0.1},
        "transforms": [{"name": "clip_norm", "bound": 1}],
    }
    assert parse_strategy(data) == FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)


@pytest.mark.parametrize(
    ("data", "strategy"),
    [
        ("fedavg", Strategy()),
        ("fedyogi", FedYogi() @ Mean()),
        ("median", FedAvg() @ Median()),
        ("clip_norm", Mean() @ ClipNorm()),
        ({"name": "krum", "f": 2}, FedAvg() @ Krum(2)),
        ({"reduction": "median"}, FedAvg() @ Median()),
        ({"step": "fedadam", "reduction": None, "transforms": None}, FedAdam() @ Mean()),
        ({}, Strategy()),
        (FedAdam() @ Median(), FedAdam() @ Median()),
    ],
)
def test_short_forms(data, strategy):
    assert parse_strategy(data) == strategy


def test_transforms_are_listed_in_the_order_in_which_they_are_applied():
    strategy = parse_strategy({"transforms": ["polynomial_staleness", {"name": "clip_norm", "bound": 2}]})
    assert strategy.transforms == (PolynomialStaleness(), ClipNorm(2))


@pytest.mark.parametrize("name", registry.ALL)
def test_every_part_has_a_name(name):
    needed = {"trimmed_mean": {"share": 0.1}, "krum": {"f": 1}, "multi_krum": {"f": 1, "m": 2}, "bulyan": {"f": 1}}
    assert type(parse_strategy({"name": name, **needed.get(name, {})})) is Strategy


def test_all_mistakes_are_reported_at_once():
    data = {
        "stepp": "fedadam",
        "step": {"name": "fedadam", "lr": -1, "momentum": 0.9},
        "reduction": {"name": "trimmed_mean", "share": "much"},
        "transforms": ["clip_nrm", "median", {"name": "clip_norm", "bound": None}, 3, {"bound": 1}],
    }
    with pytest.raises(ConfigurationError) as caught:
        parse_strategy(data)
    transforms = "a transform, one of clip_norm, adaptive_clip, polynomial_staleness, hinge_staleness, or module:name"
    assert caught.value.mistakes == [
        "strategy.stepp: expected one of step, reduction, transforms. Received: 'stepp'",
        "strategy.step.lr: expected a number > 0. Received: -1",
        "strategy.step.momentum: expected a known field (lr, beta_1, beta_2, tau). Received: 0.9",
        "strategy.reduction.share: expected a number ≥ 0 and < 0.5. Received: 'much'",
        f"strategy.transforms[0]: expected {transforms} (did you mean clip_norm?). Received: 'clip_nrm'",
        f"strategy.transforms[1]: expected {transforms}. Received: 'median'",
        "strategy.transforms[2].bound: expected a number > 0. Received: nothing",
        f"strategy.transforms[3]: expected {transforms}. Received: 3",
        f"strategy.transforms[4].name: expected {transforms}. Received: nothing",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("fedavgg", "strategy: expected a strategy, one of fedavg, .* Received: 'fedavgg'"),
        (7, "strategy: expected a strategy, one of .* Received: 7"),
        (None, "strategy: expected a strategy, one of .* Received: nothing"),
        ("krum", "strategy.f: expected an integer ≥ 0. Received: nothing"),
        ({"transforms": "clip_norm"}, "strategy.transforms: expected a list of transforms. Received: 'clip_norm'"),
        (
            {"transforms": {"name": "clip_norm"}},
            "strategy.transforms: expected a list of transforms. Received: a section",
        ),
        ({"step": {"name": "median"}}, "strategy.step.name: expected a server step, one of fedavg, .* 'median'"),
    ],
)
def test_a_mistake_says_where_what_was_expected_and_what_was_received(data, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_strategy(data)


# ---- rules of one's own ----

MY_RULES = """\
from dataclasses import dataclass
from dl_mqtt_clients.aggregation.strategies import ClipNorm, FedAdam, Share

TRUST = {"node-00": 1.0, "node-01": 0.5}

@dataclass(frozen=True)
class trust_weighted:
    stranger: float = 0.0

    def weigh(self, update):
        return Share(update.examples * TRUST.get(update.node, self.stranger))
"""

MORE_RULES = """\
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from dl_mqtt_clients.aggregation.strategies import ClipNorm, FedAdam, Part
from dl_mqtt_clients.aggregation.strategies.ranges import Range

@dataclass(frozen=True)
class Midrange(Part):
    weight: Annotated[float, Range(least=0, most=1)] = 0.5

    def reduce(self, stack):
        return stack.map(lambda block: self.weight * block.min(axis=0) + (1 - self.weight) * block.max(axis=0))

@dataclass(frozen=True)
class SignStep:
    lr: float = 0.1
    slots = {}

    def apply(self, change, slots):
        return self.lr * np.sign(change), slots

@dataclass(frozen=True)
class Halved:
    def scale(self, update, norm, state):
        return 0.5

def ours(lr=0.5):
    return FedAdam(lr=lr) @ Midrange() @ ClipNorm(2.0)

ready = Midrange(0.25)
number = 3

def failing():
    raise OSError("no disk")
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_rules.py").write_text(MY_RULES)
    (tmp_path / "more_rules.py").write_text(MORE_RULES)
    (tmp_path / "broken.py").write_text("import nothing_of_this_name")
    return tmp_path


def parse(data, folder):
    return parse_strategy(data, folders=[folder])


def test_a_rule_of_fifteen_lines_works_from_a_file(folder):
    assert len(MY_RULES.splitlines()) <= 15
    strategy = parse("my_rules:trust_weighted", folder)
    updates = updates_of(np.outer([1, 4, 40], np.ones(SIZE)), examples=[10, 40, 70])
    assert np.allclose(flat(merge(strategy, updates).change), (10 * 1 + 20 * 4) / 30)
    generous = parse({"name": "my_rules:trust_weighted", "stranger": 1}, folder)
    assert np.allclose(flat(merge(generous, updates).change), (10 * 1 + 20 * 4 + 70 * 40) / 100)


def test_every_kind_of_part_can_be_ones_own(folder):
    data = {
        "step": {"name": "more_rules:SignStep", "lr": 0.25},
        "reduction": {"name": "more_rules:Midrange", "weight": 0.0},
        "transforms": ["more_rules:Halved", "clip_norm"],
    }
    strategy = parse(data, folder)
    assert not strategy.is_linear
    updates = updates_of(np.outer([-3, -2, -1], np.ones(SIZE)))
    assert np.allclose(flat(merge(strategy, updates).change), -0.25)


def test_a_function_or_a_ready_value_may_be_named(folder):
    assert str(parse("more_rules:ours", folder)).startswith("FedAdam(lr=0.5")
    assert parse({"name": "more_rules:ours", "lr": 0.125}, folder).step == FedAdam(lr=0.125)
    assert parse({"reduction": "more_rules:ready"}, folder).reduction.weight == 0.25


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("no_such_module:rule", r"strategy: expected a module .*'no_such_module:rule' \(ModuleNotFoundError"),
        ("my_rules:nobody", r"strategy: .*'my_rules:nobody' \(AttributeError"),
        ("broken:rule", r"'broken:rule' \(ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (":", r"strategy: .* \(ImportError: expected module:attribute"),
        ("more_rules:number", r"strategy: expected a server step \(apply\), .* Received: '3'"),
        ("more_rules:failing", r"strategy: expected fields that failing takes. Received: .*no disk"),
        ({"name": "my_rules:trust_weighted", "friend": 1}, r"strategy.friend: expected a known field \(stranger\)"),
        ({"name": "my_rules:trust_weighted", "stranger": "x"}, "strategy.stranger: expected a number. Received: 'x'"),
        ({"reduction": {"name": "more_rules:Midrange", "weight": 2}}, "strategy.reduction.weight: expected .* ≤ 1"),
        ({"step": "my_rules:trust_weighted", "reduction": "mean"}, "each in its own section"),
        ({"name": "more_rules:ours", "rate": 1}, "strategy: expected fields that ours takes"),
    ],
)
def test_mistakes_in_rules_of_ones_own(folder, data, message):
    with pytest.raises(ConfigurationError, match=message):
        parse(data, folder)


def test_what_the_module_raised_is_chained(folder):
    with pytest.raises(ConfigurationError) as caught:
        parse("broken:rule", folder)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    kept = [str(module) for name, module in sys.modules.items() if name.startswith("fedlearn_rules")]
    assert not [module for module in kept if "broken" in module]


def test_the_current_folder_is_searched_only_when_it_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigurationError, match="ModuleNotFoundError"):
        parse_strategy("my_rules:trust_weighted")
    assert parse_strategy("./my_rules.py:trust_weighted").is_linear
    assert parse_strategy(f"{folder}/my_rules.py:trust_weighted").is_linear


def test_an_installed_module_is_found_as_python_finds_it(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    assert parse_strategy("my_rules:trust_weighted").is_linear
    monkeypatch.delitem(sys.modules, "my_rules")


def test_two_files_of_one_name_are_two_modules(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "my_rules.py").write_text(MY_RULES.replace("stranger: float = 0.0", "stranger: float = 9.0"))
    assert parse("my_rules:trust_weighted", folder).reduction.stranger == 0.0
    assert parse("my_rules:trust_weighted", other).reduction.stranger == 9.0
