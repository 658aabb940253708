"""Which variables travel, which stay: roles and the patterns that make variables personal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.errors import ConfigurationError
from dl_mqtt_clients.wire.messages import Variable
from dl_mqtt_clients.wire.weights import mark_personal, update_positions


def variable(path, role="trainable"):
    return Variable(role=role, shape=(2,), dtype="float32", path=path)


VARIABLES = (
    variable("scaler/offset", "scaler"),
    variable("core/batch_normalization/gamma"),
    variable("core/batch_normalization/moving_mean", "statistic"),
    variable("core/backbone/kernel", "frozen"),
    variable("batch_normalization_1/beta"),
    variable("core/output/kernel"),
)


def roles(*patterns, variables=VARIABLES):
    return [v.role for v in mark_personal(variables, patterns)]


def test_only_trainables_and_statistics_travel():
    assert update_positions(VARIABLES) == (1, 2, 4, 5)
    assert update_positions(mark_personal(VARIABLES, ["*moving_mean"])) == (1, 4, 5)


def test_fedbn_keeps_normalisation_also_where_a_path_has_no_model_before_it():
    assert roles("*/batch_normalization*/*") == ["scaler", "personal", "personal", "frozen", "personal", "trainable"]


def test_several_patterns_add_up_and_the_order_does_not_matter():
    assert roles("*/output/*", "*/gamma") == roles("*/gamma", "*/output/*")
    assert roles("*/output/*", "*/gamma").count("personal") == 2


def test_no_pattern_changes_nothing():
    assert mark_personal(VARIABLES, ()) == VARIABLES


def test_marking_again_changes_nothing():
    once = mark_personal(VARIABLES, ["*/output/*"])
    assert mark_personal(once, ["*/output/*"]) == once


def test_what_is_frozen_or_agreed_stays_so():
    assert roles("core/*")[3] == "frozen"
    assert roles("*set", "core/*", variables=(*VARIABLES, variable("set")))[0] == "scaler"


@pytest.mark.parametrize("pattern", ["*/no_such_layer/*", "*/backbone/*", "scaler/*", "CORE/*", ""])
def test_a_pattern_that_matches_nothing_that_travels_is_a_mistake_that_lists_paths(pattern):
    with pytest.raises(ConfigurationError, match=r"personal: expected a pattern of .*core/output/kernel") as caught:
        mark_personal(VARIABLES, ["*/output/*", pattern])
    assert len(caught.value.mistakes) == 1
    assert repr(pattern) in str(caught.value)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(ConfigurationError) as caught:
        mark_personal(VARIABLES, ["x", "y", "*/output/*"])
    assert len(caught.value.mistakes) == 2


def test_something_must_be_left_to_share():
    with pytest.raises(ConfigurationError, match=r"left to share. Received: \*"):
        mark_personal(VARIABLES, ["*"])


@given(st.lists(st.sampled_from(["*gamma", "*beta", "*moving*"]), unique=True))
def test_marking_one_by_one_is_marking_together(patterns):
    step = VARIABLES
    for pattern in patterns:
        step = mark_personal(step, [pattern])
    assert step == mark_personal(VARIABLES, patterns)
    assert [v.path for v in step] == [v.path for v in VARIABLES]
