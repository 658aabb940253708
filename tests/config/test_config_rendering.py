"""The file is written from the models: it is the committed one, and it loads as what was written."""

import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from dl_mqtt_clients.config import BrokerSettings, Settings, load_settings, render_settings
from dl_mqtt_clients.config.mistakes import dotted, leaves
from dl_mqtt_clients.config.words import bare, expected
from dl_mqtt_clients.errors import ConfigurationError

COMMITTED = Path(__file__).parents[2] / "configuration" / "federated_learning" / "federated_learning.yaml"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAME = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)


def values(field, kind=None):
    """Anything that `field` may be."""
    kind = bare(kind or field.annotation)
    words = expected(field)
    if get_origin(kind) is tuple:
        return st.lists(values(field, get_args(kind)[0]), max_size=4).map(tuple)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is str:
        if "mqtt://" in words:
            return st.sampled_from(["mqtts://broker:8883", "mqtt://[::1]"])
        if "MQTT topic" in words:
            return st.sampled_from(["a/{node}", "Ü/b c"])
        return NAME if "A-Z" in words else TEXT
    if "integer" in words:
        return st.integers(1, 4096)
    return st.floats(1e-12, 1.0, exclude_max=True) if "growth" not in str(field.description) else st.just(1.5)


FIELDS = {
    dotted(path): values(field)
    for path, field in leaves(Settings)
    if path[-1] not in ("password", "fraction_growth", "over_selection", "overrides")
}


def test_the_committed_file_is_what_the_models_say():
    assert COMMITTED.read_text(encoding="utf-8") == render_settings()
    assert load_settings(COMMITTED, environ={}) == Settings()


def test_the_module_writes_it():
    command = [sys.executable, "-m", "dl_mqtt_clients.config"]
    written = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    assert written.decode("utf-8") == render_settings()


def test_every_field_stands_in_the_file_with_meaning_range_and_default():
    text = " ".join(line.strip(" #") for line in render_settings().splitlines())
    for _, field in leaves(Settings):
        assert f"{field.description} [{expected(field)}; default " in text


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_what_is_written_loads_as_what_it_was(tmp_path_factory, data):
    names = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=8, unique=True))
    changes = {name: data.draw(FIELDS[name], label=name) for name in names}
    try:
        changed = Settings().replace(**changes)
    except ConfigurationError as error:
        assume(
            "since" not in str(error) and "at most rounds" not in str(error) and "at most readings" not in str(error)
        )
        raise
    path = tmp_path_factory.getbasetemp() / "rendered.yaml"
    path.write_text(render_settings(changed), encoding="utf-8")
    assert load_settings(path, environ={}) == changed


def test_a_password_is_not_written():
    secret = Settings(broker=BrokerSettings(password=SecretStr("hunter2")))
    assert render_settings(secret) == render_settings()


def test_importing_the_configuration_imports_no_heavy_library():
    code = (
        "import sys, dl_mqtt_clients.config; "
        "print([m for m in ('keras', 'numpy', 'polars', 'paho', 'rich') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout
    assert out.decode().strip() == "[]"
