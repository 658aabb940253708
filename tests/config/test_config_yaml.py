"""Hostile and broken files: always a ConfigurationError with the line, never another exception, never long."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from dl_mqtt_clients.config import Settings, load_settings
from dl_mqtt_clients.config.yaml import parse, scalar
from dl_mqtt_clients.errors import ConfigurationError

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"


def mistakes_of(path):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, environ={})
    return caught.value.mistakes


@pytest.mark.parametrize(
    ("content", "said", "line"),
    [
        (b"training:\n  epochs: [1\n", "valid YAML", 3),
        (b"training:\n  epochs: 1\n epochs: 2\n", "valid YAML", 3),
        (b"training:\n  epochs: 1: 2\n", "valid YAML", 2),
        (b"training:\n\tepochs: 1\n", "spaces for indentation. Received: a tab", 2),
        (b"training:\n  epochs: 1\n  epochs: 2\n", "each field once (first in line 2). Received: 'epochs'", 3),
        (b"training: {}\ntraining: {}\n", "each field once (first in line 1). Received: 'training'", 2),
        (b"log:\n  level: \xff\n", "text in UTF-8. Received: the byte 0xff", 2),
        (b"log:\n  level: \x00\n", "printable characters. Received: '\\x00'", 2),
        ("training:".encode("utf-16"), "text in UTF-8", 1),
        (b"- training\n- rounds\n", "sections with fields. Received: a list", 1),
        (b"training\n", "sections with fields. Received: 'training'", 1),
        (BOMB.encode(), "no anchors and aliases (& and *)", 1),
        (b"log: &x\n  level: info\n", "no anchors and aliases (& and *)", 1),
        (b"log:\n  level: !!python/object/apply:os.system [x]\n", "no tags (!)", 2),
        (b"log: {}\n---\nlog: {}\n", "one document", 2),
        (b"? [a, b]\n: 1\n", "a field's name", 1),
        (b"model: {hidden: [" + b"0," * 200_000 + b"]}", "at most 100000 names and values", 1),
        (b"[" * 100_000, "at most 20 levels", 1),
        (b"{a: " * 30 + b"}" * 30, "at most 20 levels", 1),
        (b"%YAML 9.9\n---\n", "valid YAML", 1),
        (b"\x25TAG x\n", "valid YAML", 1),
    ],
)
def test_a_broken_file_is_one_clear_mistake_with_its_line(tmp_path, content, said, line):
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    [mistake] = mistakes_of(path)
    assert mistake.startswith("broken.yaml: expected ")
    assert said in mistake
    assert mistake.endswith(f"(broken.yaml:{line})")
    assert len(mistake) < 400


def test_a_missing_file_a_folder_and_a_huge_file_are_mistakes(tmp_path):
    [missing] = mistakes_of(tmp_path / "missing.yaml")
    assert missing.startswith("missing.yaml: expected a readable file. Received: No such file or directory (/")
    [folder] = mistakes_of(tmp_path)
    assert "expected a readable file. Received: Is a directory" in folder
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (1024 * 1024 + 1))
    assert mistakes_of(huge) == ["huge.yaml: expected at most 1 MiB. Received: more"]


def test_mistakes_of_the_environment_are_reported_beside_a_broken_file(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path / "missing.yaml", environ={"FEDLEARN_TRAINING__EPOCHS": "0"})
    assert len(caught.value.mistakes) == 2


@pytest.mark.parametrize(
    "text",
    ["", "\n", "# only a comment\n", "---\n", "training:\n", "training: {}\n", "\ufefftraining:\n", "null\n", "~"],
)
def test_an_empty_file_or_section_has_the_defaults(tmp_path, text):
    path = tmp_path / "empty.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_settings(path, environ={}) == Settings()


def test_a_section_that_is_a_value_and_unknown_fields_are_mistakes_with_their_lines(tmp_path):
    path = tmp_path / "f.yaml"
    path.write_text("rounds: 5\ntraining:\n  epoch: 3\n  early_stopping:\n    patienc: 1\nfoo: {bar: 1}\n<<: 1\n")
    assert mistakes_of(path) == [
        "rounds: expected a section with fields of its own. Received: 5 (f.yaml:1)",
        "training.epoch: expected a field of training (did you mean epochs?). Received: 'epoch' (f.yaml:3)",
        (
            "training.early_stopping.patienc: expected a field of training.early_stopping (did you mean patience?). "
            "Received: 'patienc' (f.yaml:5)"
        ),
        "foo: expected a known section. Received: 'foo' (f.yaml:6)",
        "<<: expected a known section. Received: '<<' (f.yaml:7)",
    ]


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"broker: {url: mqtt://a:b@c, password: 1}")
@example(b"model: {hidden: [" + b"9" * 5000 + b"]}")
@example(b"rounds: {deadline_s: " + b"9" * 1500 + b"}")
@example(b"data: {seed: 0x" + b"f" * 5000 + b"}")
def test_whatever_the_bytes_are_only_a_configuration_error_comes_of_it(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(content)
    try:
        load_settings(path, environ={})
    except ConfigurationError as error:
        unclear = [line for line in error.mistakes if "expected" not in line or "Received" not in line]
        if unclear or not error.mistakes:
            raise


SCALARS = st.one_of(
    st.sampled_from(["", "~", "null", "true", "False", "yes", "1_000", "0x1F", ".inf", "-.INF", ".nan", "1.", ".5"]),
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"[-+]?[0-9a-z_.]{1,8}", fullmatch=True),
)


@given(SCALARS)
@example("._")
def test_scalars_are_read_as_the_library_reads_them(text):
    """Except where we are stricter: octal, binary, dates and stray underscores are texts or plain integers to us."""
    ours = scalar(text)
    try:
        theirs = YAML(typ="safe", pure=True).load(text)
    except ValueError:  # it takes "._" for a number, and then it is none
        assert ours == text
        return
    if type(theirs) is type(ours) and text.lstrip("+-")[:2] not in ("0o", "0b"):
        assert ours == theirs or ours != ours
    else:
        assert isinstance(ours, str | int | float)


def test_values_keep_their_lines():
    root = parse("a: 1\nb:\n  - x\n\n  - y\n")
    assert root.plain() == {"a": 1, "b": ["x", "y"]}
    assert [item.line for item in root.value["b"].value] == [3, 5]
    assert root.value["b"].line == 2
