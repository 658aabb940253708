"""A strategy as one line of text, with the library's parts and with rules from files outside the package."""

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
    read_strategy,
    registry,
)
from dl_mqtt_clients.errors import ConfigurationError
from strategy_helpers import SIZE, flat, merge, updates_of

NEEDED = {"TrimmedMean": "(0.1)", "Krum": "(f=1)", "MultiKrum": "(f=1, m=2)", "Bulyan": "(f=1)"}


@pytest.mark.parametrize(
    ("text", "strategy"),
    [
        ("FedAvg", Strategy()),
        (" FedYogi ", FedYogi() @ Mean()),
        ("Median", FedAvg() @ Median()),
        ("Krum(2)", FedAvg() @ Krum(2)),
        ("Krum (f=2)", FedAvg() @ Krum(2)),
        ("FedAdam()@Median@ClipNorm", FedAdam() @ Median() @ ClipNorm()),
        ("FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)", FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)),
        ("ClipNorm(2) @ PolynomialStaleness", Mean() @ ClipNorm(2) @ PolynomialStaleness()),
    ],
)
def test_text_reads_as_the_same_python_does(text, strategy):
    assert read_strategy(text) == strategy


@pytest.mark.parametrize("name", registry.PARTS)
def test_what_a_strategy_prints_reads_as_the_same_strategy(name):
    strategy = read_strategy(name + NEEDED.get(name, ""))
    assert name in str(strategy)
    assert read_strategy(str(strategy)) == strategy


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(ConfigurationError) as caught:
        read_strategy("FedAdam(lr=-1, tau=0) @ TrimmedMean('much') @ ClipNrm @ ClipNorm(None) @ 3 +")
    names = ", ".join(sorted(registry.PARTS))
    assert caught.value.mistakes == [
        "rounds.strategy: FedAdam.lr: expected a number > 0. Received: -1",
        "rounds.strategy: FedAdam.tau: expected a number > 0. Received: 0",
        "rounds.strategy: TrimmedMean.share: expected a number ≥ 0 and < 0.5. Received: 'much'",
        f"rounds.strategy: expected one of {names}, or module:name (did you mean ClipNorm?). Received: 'ClipNrm'",
        "rounds.strategy: ClipNorm.bound: expected a number > 0. Received: nothing",
        "rounds.strategy: expected parts such as FedAdam(lr=0.01), joined by @. Received: '3 +'",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected parts such as .* Received: ''"),
        ("fedavg", r"expected one of .* \(did you mean FedAvg\?\). Received: 'fedavg'"),
        ("Krum", "expected arguments that Krum takes. Received: .*missing"),
        ("FedAdam(momentum=0.9)", "expected arguments that FedAdam takes. Received: .*momentum"),
        ("Mean @ FedAdam", "expected step @ reduction @ transforms. Received: "),
        ("ClipNorm(open('x'))", "expected plain arguments such as .* Received: "),
        ("ClipNorm(__import__('os').getpid())", "expected plain arguments such as .* Received: "),
        ("ClipNorm(1.0) if True else Mean", "expected parts such as .* Received: "),
        ("ClipNorm(" + "(" * 5000 + ")" * 5000 + ")", "expected plain arguments"),
    ],
)
def test_a_mistake_says_where_what_was_expected_and_what_was_received(text, message):
    with pytest.raises(ConfigurationError, match=rf"^here: {message}"):
        read_strategy(text, place="here")


# ---- rules of one's own ----

MY_RULES = """\
from dataclasses import dataclass
from dl_mqtt_clients.aggregation.strategies import Share

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


def read(text, folder):
    return read_strategy(text, folders=[folder])


def test_a_rule_of_fifteen_lines_works_from_a_file(folder):
    assert len(MY_RULES.splitlines()) <= 15
    strategy = read("my_rules:trust_weighted", folder)
    updates = updates_of(np.outer([1, 4, 40], np.ones(SIZE)), examples=[10, 40, 70])
    assert np.allclose(flat(merge(strategy, updates).change), (10 * 1 + 20 * 4) / 30)
    generous = read("my_rules:trust_weighted(stranger=1)", folder)
    assert np.allclose(flat(merge(generous, updates).change), (10 * 1 + 20 * 4 + 70 * 40) / 100)


def test_every_kind_of_part_can_be_ones_own(folder):
    text = "more_rules:SignStep(lr=0.25) @ more_rules:Midrange(weight=0.0) @ ClipNorm @ more_rules:Halved"
    strategy = read(text, folder)
    assert not strategy.is_linear
    updates = updates_of(np.outer([-3, -2, -1], np.ones(SIZE)))
    assert np.allclose(flat(merge(strategy, updates).change), -0.25)


def test_a_function_or_a_ready_value_may_be_named(folder):
    assert str(read("more_rules:ours", folder)).startswith("FedAdam(lr=0.5")
    assert read("more_rules:ours(lr=0.125)", folder).step == FedAdam(lr=0.125)
    assert read("FedAvg @ more_rules:ready", folder).reduction.weight == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no_such_module:rule", r"a module .*no_such_module:rule \(ModuleNotFoundError"),
        ("my_rules:nobody", r"my_rules:nobody \(AttributeError"),
        ("broken:rule", r"broken:rule \(ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (":", "expected parts such as"),
        ("more_rules:number", r"expected a server step \(apply\), .* Received: 3"),
        ("more_rules:ready(0.5)", r"more_rules:ready without arguments: it is a value already"),
        ("more_rules:failing", r"expected arguments that more_rules:failing takes. Received: .*no disk"),
        ("my_rules:trust_weighted(friend=1)", "expected arguments that my_rules:trust_weighted takes. .*friend"),
        ("more_rules:Midrange(2)", r"Midrange.weight: expected .* ≤ 1"),
        ("Mean @ my_rules:trust_weighted", "expected step @ reduction @ transforms"),
    ],
)
def test_mistakes_in_rules_of_ones_own(folder, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read(text, folder)


def test_what_the_module_raised_is_chained(folder):
    with pytest.raises(ConfigurationError) as caught:
        read("broken:rule", folder)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    kept = [str(module) for name, module in sys.modules.items() if name.startswith("fedlearn_rules")]
    assert not [module for module in kept if "broken" in module]


def test_the_current_folder_is_searched_only_when_it_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigurationError, match="ModuleNotFoundError"):
        read_strategy("my_rules:trust_weighted")
    assert read_strategy("./my_rules.py:trust_weighted").is_linear
    assert read_strategy(f"{folder}/my_rules.py:trust_weighted").is_linear


def test_an_installed_module_is_found_as_python_finds_it(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    assert read_strategy("my_rules:trust_weighted").is_linear
    monkeypatch.delitem(sys.modules, "my_rules")


def test_two_files_of_one_name_are_two_modules(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "my_rules.py").write_text(MY_RULES.replace("stranger: float = 0.0", "stranger: float = 9.0"))
    assert read("my_rules:trust_weighted", folder).reduction.stranger == 0.0
    assert read("my_rules:trust_weighted", other).reduction.stranger == 9.0
