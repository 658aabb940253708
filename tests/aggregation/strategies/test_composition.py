"""step @ reduction @ transforms: reads as it computes, and nothing else can be written."""

import dataclasses
import inspect

import pytest

from dl_mqtt_clients.aggregation import strategies
from dl_mqtt_clients.aggregation.strategies import (
    AdaptiveClip,
    Bulyan,
    ClipNorm,
    FedAdam,
    FedAvg,
    FedYogi,
    Krum,
    Mean,
    Median,
    MultiKrum,
    PolynomialStaleness,
    Share,
    Strategy,
    TrimmedMean,
)
from dl_mqtt_clients.errors import ConfigurationError


def test_a_strategy_is_written_as_it_computes():
    strategy = FedAdam(lr=0.01) @ TrimmedMean(0.1) @ ClipNorm(1.0)
    assert strategy == Strategy(FedAdam(lr=0.01), TrimmedMean(0.1), (ClipNorm(1.0),))
    assert str(FedAvg() @ Median() @ ClipNorm(2.0)) == "FedAvg(lr=1.0) @ Median() @ ClipNorm(bound=2.0)"


def test_what_is_left_out_is_fedavg_and_the_mean():
    assert Mean() @ ClipNorm() == Strategy(FedAvg(), Mean(), (ClipNorm(),))
    assert FedYogi() @ ClipNorm() == Strategy(FedYogi(), Mean(), (ClipNorm(),))
    assert FedAvg() @ Mean() == Strategy()


def test_transforms_are_applied_from_right_to_left():
    strategy = Mean() @ ClipNorm(1.0) @ PolynomialStaleness()
    assert strategy.transforms == (PolynomialStaleness(), ClipNorm(1.0))


@pytest.mark.parametrize("second", [Median(), ClipNorm(3.0)])
def test_brackets_do_not_matter(second):
    left, right = FedAdam(), ClipNorm(1.0)
    assert (left @ second) @ right == left @ (second @ right)
    assert str((left @ second) @ right) == str(left @ (second @ right))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Mean() @ FedAdam(),
        lambda: ClipNorm() @ Mean(),
        lambda: ClipNorm() @ FedAvg(),
        lambda: FedAdam() @ FedAvg(),
        lambda: Mean() @ Median(),
        lambda: FedAdam() @ ClipNorm() @ Median(),
        lambda: FedAdam() @ (FedAvg() @ Mean()),
        lambda: Strategy() @ Median(),
    ],
)
def test_another_order_or_two_of_a_kind_is_a_mistake(wrong):
    with pytest.raises(ConfigurationError, match=r"expected step @ reduction @ transforms. Received: \w+\(.*\) @ \w+"):
        wrong()


@pytest.mark.parametrize("part", [3, "mean", None, Median, object()])
def test_what_is_no_part_does_not_compose(part):
    with pytest.raises(ConfigurationError, match=r"expected a server step .* Received: "):
        FedAvg() @ part


def test_parts_in_the_wrong_places_are_all_named():
    with pytest.raises(ConfigurationError) as caught:
        Strategy(step=Mean(), reduction=ClipNorm(), transforms=(ClipNorm(), FedAvg()))
    assert [m.split(":")[0] for m in caught.value.mistakes] == [
        "strategy.step",
        "strategy.reduction",
        "strategy.transforms[1]",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: FedAdam(lr=0), "FedAdam.lr: expected a number > 0. Received: 0"),
        (lambda: FedAdam(lr=float("nan")), "FedAdam.lr: expected a number > 0. Received: nan"),
        (lambda: FedAdam(beta_1=1.0), "FedAdam.beta_1: expected a number ≥ 0 and < 1. Received: 1.0"),
        (lambda: TrimmedMean(0.5), "TrimmedMean.share: expected a number ≥ 0 and < 0.5. Received: 0.5"),
        (lambda: Krum(1.5), "Krum.f: expected an integer ≥ 0. Received: 1.5"),
        (lambda: MultiKrum(f=True, m=1), "MultiKrum.f: expected an integer ≥ 0. Received: true"),
        (lambda: ClipNorm("1"), "ClipNorm.bound: expected a number > 0. Received: '1'"),
        (lambda: AdaptiveClip(quantile=1.1), "AdaptiveClip.quantile: expected a number ≥ 0 and ≤ 1. Received: 1.1"),
    ],
)
def test_a_field_out_of_range_is_named_with_what_was_expected(wrong, message):
    with pytest.raises(ConfigurationError) as caught:
        wrong()
    assert caught.value.mistakes == [message]


def test_strategies_are_values():
    strategy = FedAdam() @ Median() @ ClipNorm()
    assert hash(strategy) == hash(FedAdam() @ Median() @ ClipNorm())
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.step = FedAvg()
    with pytest.raises(dataclasses.FrozenInstanceError):
        strategy.step.lr = 1.0


def test_a_part_of_ones_own_needs_no_base_class():
    @dataclasses.dataclass(frozen=True)
    class Everyone:
        def weigh(self, update):
            return Share(1)

    strategy = FedAdam() @ Everyone() @ ClipNorm()
    assert strategy.reduction == Everyone()
    assert (Everyone() @ ClipNorm()).is_linear  # the one at the right composes


def test_robust_strategies_say_how_many_updates_they_need():
    assert not (FedAvg() @ Median()).is_linear
    assert Strategy().is_linear
    needs = [Strategy(reduction=r).min_updates for r in (Mean(), Median(), Krum(2), MultiKrum(1, 8), Bulyan(2))]
    assert needs == [1, 1, 7, 9, 11]


def test_every_part_cites_its_paper_and_is_public():
    parts = [part for part in vars(strategies).values() if inspect.isclass(part) and issubclass(part, strategies.Part)]
    assert len(parts) > 15
    for part in parts:
        assert part.__name__ in strategies.__all__
        assert part is strategies.Part or " 20" in part.__doc__, part
    assert sorted(strategies.__all__) == strategies.__all__
