"""Every field, wrong in turn, says what it expected, what it received, and where."""

import math
import re

import pytest

from dl_mqtt_clients.config import Settings, load_settings
from dl_mqtt_clients.config.mistakes import dotted, leaves
from dl_mqtt_clients.config.words import expected
from dl_mqtt_clients.errors import ConfigurationError

LEAVES = [pytest.param(path, field, id=dotted(path)) for path, field in leaves(Settings)]
NUMBERS = [
    param for param in LEAVES if " number" in expected(param.values[1]) or "integer" in expected(param.values[1])
]
RANGED = [param for param in NUMBERS if "list" not in expected(param.values[1])]
WRONG = {"{a: 1}": "a section", "[[1]]": "[[1]]", ".nan": "nan", '"\\x07"': "'\\x07'"}
CASES = [
    pytest.param(path, field, value, id=f"{dotted(path)}-{WRONG[value]}")
    for path, field in leaves(Settings)
    for value in WRONG
    if path[-1] != "password" or value != '"\\x07"'  # a password may be any text
]


def yaml_for(path, value):
    """The file with this one value, which stands on line len(path)."""
    lines = [f"{'  ' * depth}{name}:" for depth, name in enumerate(path)]
    return "\n".join(lines) + f" {value}\n"


def mistakes_of(tmp_path, text, **sources):
    file = tmp_path / "federated_learning.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, **{"environ": {}} | sources)
    return caught.value.mistakes


@pytest.mark.parametrize(("path", "field", "value"), CASES)
def test_a_wrong_value_names_field_expectation_value_file_and_line(tmp_path, path, field, value):
    [line] = mistakes_of(tmp_path, yaml_for(path, value))
    said = re.fullmatch(r"(.+): expected (.+)\. Received: (.+) \(federated_learning\.yaml:(\d+)\)", line)
    name, words, received, number = said.groups()
    if name != dotted(path):  # one element of a list
        assert name == f"{dotted(path)}[0]"
        words, received = f"a list, each {words}", f"[{received}]"
    assert words == expected(field)
    assert received == (WRONG[value] if path[-1] != "password" else received)
    assert int(number) == len(path)


def said_about(override):
    try:
        load_settings(None, overrides=[override], environ={})
    except ConfigurationError as error:
        return str(error)  # perhaps only of a rule between fields
    return ""


@pytest.mark.parametrize(("path", "field"), RANGED)
def test_a_range_is_exact(path, field):
    words = expected(field)
    step = 1 if "integer" in words else 1e-9
    between = re.search(r"between (\S+) and (\S+?)(?:,|$)", words)
    bounds = [("≥", between[1]), ("≤", between[2])] if between else re.findall(r"([≥≤<>]) ([\d.]+)", words)
    assert bounds or "null" in words or words == "one of 0, 1"
    for sign, text in bounds:
        bound = int(text) if step == 1 else float(text)
        beyond = bound - step if sign in "≥>" else max(bound + step, math.nextafter(bound, math.inf))
        with pytest.raises(ConfigurationError, match=re.escape(words)):
            load_settings(None, overrides=[f"{dotted(path)}={beyond!r}"], environ={})
        refused = words in said_about(f"{dotted(path)}={bound!r}")
        assert refused == (sign in "<>")


@pytest.mark.parametrize(("path", "field"), LEAVES)
def test_a_flag_and_an_environment_variable_reach_every_field(path, field):
    default = field.default
    text = "" if default in ((), None) or path[-1] == "password" else default
    text = ",".join(map(str, text)) if isinstance(text, tuple) else str(text)
    variable = "FEDLEARN_" + "__".join(path).upper()
    assert load_settings(None, overrides=[f"{dotted(path)}={text}"], environ={}) == Settings()
    assert load_settings(None, environ={variable: text}) == Settings()


@pytest.mark.parametrize(("path", "field"), LEAVES)
def test_every_field_is_described_in_a_sentence(path, field):
    assert re.fullmatch(r".+[.]", field.description), path
    assert "expected" not in expected(field)


def test_a_password_is_never_shown(tmp_path):
    settings = load_settings(None, overrides=["broker.password=hunter2"], environ={})
    assert settings.broker.read_password() == "hunter2"
    shown = [repr(settings), str(settings.broker), settings.model_dump_json(), repr(settings.model_dump())]
    wrong = mistakes_of(tmp_path, "broker:\n  password: [hunter2]\n  url: mqtt://me:hunter2@host\n  pasword: hunter2")
    assert len(wrong) == 3
    assert "hunter2" not in "".join([*shown, *wrong])


def test_an_integer_too_large_for_json_is_refused_with_the_limit():
    with pytest.raises(ConfigurationError, match=r"an integer ≥ 1 and ≤ 2\^53\. Received: 9007199254740993"):
        load_settings(None, overrides=[f"training.epochs={2**53 + 1}"], environ={})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("broker.url", text)
        for text in ("localhost", "http://a", "mqtt://", "mqtt://a:x", "mqtt://a:70000", "mqtt://a:0", "mqtt://a:")
    ]
    + [("broker.url", text) for text in ("mqtt://a/b", "mqtt://a?b", "mqtt://a#b", "mqtt://u@a", "mqtt://a b")]
    + [("data_broker.score_topic", text) for text in ("", "score/+", "score/#", "x" * 65_536)]
    + [("data_broker.reading_topic", text) for text in ("", "a/b+", "#/a", "a/b#")]
    + [("node.id", text) for text in ("a/b", "a b", "é", "x" * 65)]
    + [("federation.name", ""), ("federation.seed", "x" * 65), ("training.learning_rate", "0")],
)
def test_a_text_of_the_wrong_form_is_refused(field, text):
    with pytest.raises(ConfigurationError, match=f"^{field}: expected .*set {field}"):
        load_settings(None, overrides=[f"{field}={text}"], environ={})


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("broker.url", "mqtts://broker.example:8884/"),
        ("broker.url", "mqtt://[::1]:1883"),
        ("data_broker.reading_topic", "site/+/reading/#"),
        ("data_broker.label_topic", ""),
        ("node.id", "x" * 64),
    ],
)
def test_a_text_of_the_right_form_is_taken(field, text):
    section, name = field.split(".")
    settings = load_settings(None, overrides=[f"{field}={text}"], environ={})
    assert getattr(getattr(settings, section), name) == text
