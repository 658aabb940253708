"""What the library has is in the reference, and what the reference has is in the library."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from dl_mqtt_clients.aggregation.strategies import registry
from dl_mqtt_clients.config import Settings
from dl_mqtt_clients.wire.codecs import CODECS

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"
STRATEGIES, CODEC_PAGE = ((REFERENCE / name).read_text(encoding="utf-8") for name in ("strategies.md", "codecs.md"))


def signature(part: type) -> str:
    """As it stands in the page: `FedAvgM(lr=1.0, momentum=0.9)`."""
    given = (f.name if f.default is MISSING else f"{f.name}={f.default}" for f in fields(part))
    return f"{part.__name__}({', '.join(given)})"


@pytest.mark.parametrize(
    ("section", "parts"),
    [
        ("Server steps", registry.STEPS),
        ("Reductions", registry.REDUCTIONS),
        ("Transforms", registry.TRANSFORMS),
    ],
)
def test_every_part_stands_in_its_section_with_its_defaults(section, parts):
    text = STRATEGIES.partition(f"## {section}\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(.*?)`", text, re.MULTILINE)) == sorted(signature(part) for part in parts)


def test_the_reference_names_the_default_strategy():
    assert f"The default is `{Settings().rounds.strategy}`." in STRATEGIES


def test_every_codec_is_in_the_reference():
    assert set(re.findall(r"^\| `(.*?)`", CODEC_PAGE, re.MULTILINE)) >= set(CODECS)
