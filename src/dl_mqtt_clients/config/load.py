"""Settings from a file, the environment and flags, with all mistakes at once and the place of each.

A flag wins over the environment, which wins over the file, which wins over the default.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dl_mqtt_clients.config.mistakes import FieldPath, Mistake, explain
from dl_mqtt_clients.config.settings import Settings
from dl_mqtt_clients.config.sources import from_environment, from_file, from_flags
from dl_mqtt_clients.errors import ConfigurationError


def load_settings(
    path: Path | None, *, overrides: Sequence[str] = (), environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of `path` (None: no file), changed by `FEDLEARN_SECTION__FIELD` and by `section.field=value`.

    Relative paths in them are relative to the current folder. ConfigurationError lists every mistake.
    """
    source = from_file(path) + from_environment(environ) + from_flags(overrides)
    settings, wrong = _checked(source.values)
    mistakes = [*source.mistakes, *((source.place(mistake), mistake) for mistake in wrong)]
    if mistakes:
        mistakes.sort(key=lambda pair: pair[0])
        raise ConfigurationError([mistake.text(place.text) for place, mistake in mistakes])
    return settings


def _checked(values: dict[FieldPath, Any]) -> tuple[Settings, list[Mistake]]:
    """Settings of the values that are right, and what is wrong with the others.

    Whether fields fit together can only be judged where each is right: hence once more without the wrong ones.
    """
    try:
        return Settings.model_validate(_tree(values)), []
    except ValidationError as error:
        wrong = explain(error, Settings)
    bad = {path for mistake in wrong for path in (mistake.path, mistake.path[:-1], *mistake.involved)}
    rest = {path: value for path, value in values.items() if path not in bad}
    if len(rest) == len(values):
        return Settings(), wrong
    settings, more = _checked(rest)
    return settings, wrong + [mistake for mistake in more if not bad & {mistake.path, *mistake.involved}]


def _tree(values: dict[FieldPath, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*sections, name), value in values.items():
        inner = tree
        for section in sections:
            inner = inner.setdefault(str(section), {})
        inner[str(name)] = value
    return tree
