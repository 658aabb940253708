"""Flag before environment before file before default; all mistakes of all of them at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.config import Settings, load_settings
from dl_mqtt_clients.errors import ConfigurationError

VARIABLE = "FEDLEARN_TRAINING__EPOCHS"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "federated_learning.yaml"
    path.write_text("training:\n  epochs: 2\nlearning:\n  backend: torch\nmodel:\n  hidden:\n    - 8\n    - 0\n")
    return path


@given(
    in_file=st.none() | st.integers(1, 99),
    in_environment=st.none() | st.integers(1, 99),
    flags=st.lists(st.integers(1, 99), max_size=2),
)
def test_the_last_flag_wins_over_environment_over_file_over_default(tmp_path_factory, in_file, in_environment, flags):
    path = tmp_path_factory.getbasetemp() / "precedence.yaml"
    path.write_text("" if in_file is None else f"training: {{epochs: {in_file}}}")
    settings = load_settings(
        path,
        overrides=[f"training.epochs={flag}" for flag in flags],
        environ={} if in_environment is None else {VARIABLE: str(in_environment)},
    )
    given_values = [value for value in (*reversed(flags), in_environment, in_file) if value is not None]
    assert settings.training.epochs == [*given_values, 1][0]


def test_a_wrong_value_that_is_overridden_is_no_mistake(file):
    settings = load_settings(file, overrides=["model.hidden=[8, 4]"], environ={})
    assert settings.model.hidden == (8, 4)
    assert settings.training.epochs == 2


def test_a_wrong_element_that_replaces_a_list_is_placed_where_it_was_given(file):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, overrides=["model.hidden=8,x"], environ={})
    assert caught.value.mistakes == ["model.hidden[1]: expected an integer ≥ 1. Received: 'x' (--set model.hidden)"]


@pytest.mark.parametrize(
    ("environ", "backend"),
    [
        ({}, "torch"),
        ({"KERAS_BACKEND": ""}, "torch"),
        ({"KERAS_BACKEND": "tensorflow"}, "tensorflow"),
        ({"KERAS_BACKEND": "tensorflow", "FEDLEARN_LEARNING__BACKEND": "jax"}, "jax"),
    ],
)
def test_keras_own_variable_counts_unless_ours_is_set(file, environ, backend):
    settings = load_settings(file, overrides=["model.hidden="], environ=environ)
    assert settings.learning.backend == backend
    assert settings.model.hidden == ()


@pytest.mark.parametrize(
    ("override", "section", "name", "value"),
    [
        ("readings.features=a, b", "readings", "features", ("a", "b")),
        ("readings.features=['a, b', c]", "readings", "features", ("a, b", "c")),
        ("generator.nodes=[1, 2]", "generator", "nodes", ("1", "2")),
        ("generator.nodes=007", "generator", "nodes", ("007",)),
        ("federation.seed=12", "federation", "seed", "12"),
        ('federation.seed="a b"', "federation", "seed", "a b"),
        ("federation.seed=true", "federation", "seed", "true"),
        ("federation.seed=a=b: #c", "federation", "seed", "a=b: #c"),
        ("training.learning_rate=", "training", "learning_rate", None),
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.window=10_000", "training", "window", 10_000),
        ("rounds.deadline_s= 5 ", "rounds", "deadline_s", 5.0),
    ],
)
def test_a_flag_is_read_as_its_field_is_typed(override, section, name, value):
    settings = load_settings(None, overrides=[override], environ={})
    assert getattr(getattr(settings, section), name) == value


def test_a_password_is_taken_as_it_is():
    settings = load_settings(None, environ={"FEDLEARN_BROKER__PASSWORD": '"[12]: '})
    assert settings.broker.read_password() == '"[12]: '


def test_all_mistakes_of_file_environment_and_flags_come_at_once_in_this_order(file):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(
            file,
            overrides=["training.batch_size=x", "rounds.min_updates=3", "rounds.target_updates=2", "nonsense"],
            environ={VARIABLE: "0", "FEDLEARN_LOG__LEVL": "x", "FEDLEARN_TRAINING_EPOCHS": "1", "FEDLEARN_X": ""},
        )
    assert caught.value.mistakes == [
        "model.hidden[1]: expected an integer ≥ 1. Received: 0 (federated_learning.yaml:8)",
        "log.levl: expected a field of log (did you mean level?). Received: 'levl' (environment FEDLEARN_LOG__LEVL)",
        (
            "training.epochs: expected the variable FEDLEARN_TRAINING__EPOCHS (two underscores between names). "
            "Received: FEDLEARN_TRAINING_EPOCHS (environment FEDLEARN_TRAINING_EPOCHS)"
        ),
        "training.epochs: expected an integer ≥ 1. Received: 0 (environment FEDLEARN_TRAINING__EPOCHS)",
        "nonsense: expected section.field=value. Received: 'nonsense' (--set nonsense)",
        (
            "rounds.min_updates: expected at most rounds.target_updates, which is 2. Received: 3 "
            "(--set rounds.min_updates)"
        ),
        "training.batch_size: expected an integer ≥ 1. Received: 'x' (--set training.batch_size)",
    ]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epoch=1", "training.epoch: expected a field of training (did you mean epochs?)"),
        ("traning.epochs=1", "traning.epochs: expected a field of traning (did you mean training.epochs?)"),
        ("epochs=1", "epochs: expected a known section (did you mean training.epochs?)"),
        ("rounds.epochs=1", "rounds.epochs: expected a field of rounds (did you mean training.epochs?)"),
        ("training.epochs.x=1", "training.epochs.x: expected a field of training.epochs"),
        ("training=1", "training: expected a section with fields of its own. Received: '1'"),
        ("=1", ": expected a known section. Received: ''"),
    ],
)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(override, said):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(None, overrides=[override], environ={})
    [mistake] = caught.value.mistakes
    assert mistake.startswith(said)


def test_without_sources_there_are_the_defaults():
    assert load_settings(None, environ={}) == Settings()
