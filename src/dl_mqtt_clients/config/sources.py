"""Where settings come from: file, environment, flags. Each yields values, the place of each, and mistakes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from dl_mqtt_clients.config.given import from_text
from dl_mqtt_clients.config.mistakes import FieldPath, Mistake, exists, field_at, leaves, section_of, unknown, wrong
from dl_mqtt_clients.config.settings import Settings
from dl_mqtt_clients.config.yaml import Node, TextMistakeError, parse, read_text

PREFIX: Final = "FEDLEARN_"
MAX_SUGGESTIONS: Final = 100  # each costs a comparison with every field
BACKEND: Final[FieldPath] = ("learning", "backend")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value was given; sorts as a reader would look: file by line, then environment, then flags."""

    source: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Values by path, places (of list elements too), and what could not even be read. `+`: the right one wins."""

    values: dict[FieldPath, Any] = field(default_factory=dict)
    places: dict[FieldPath, Place] = field(default_factory=dict)
    mistakes: list[tuple[Place, Mistake]] = field(default_factory=list)

    def __add__(self, other: "Source") -> "Source":
        kept = {path: place for path, place in self.places.items() if path[:-1] not in other.values}
        return Source(self.values | other.values, kept | other.places, self.mistakes + other.mistakes)

    def place(self, mistake: Mistake) -> Place:
        """The place of the wrong value, or of one that it does not fit together with."""
        candidates = (mistake.path, mistake.path[:-1], *mistake.involved)
        return next((self.places[path] for path in candidates if path in self.places), Place(0, 0, ""))


def from_file(path: Path | None) -> Source:
    """The values of a YAML file; none without a file."""
    source = Source()
    if path is None:
        return source
    try:
        root = parse(read_text(path))
    except TextMistakeError as error:
        place = Place(0, error.line, f"{path.name}:{error.line}" if error.line else "")
        source.mistakes.append((place, Mistake((path.name,), error.expected, error.received)))
        return source
    if isinstance(root.value, dict):
        _collect(root.value, (), Settings, path.name, source)
    elif root.value is not None:
        place = Place(0, root.line, f"{path.name}:{root.line}")
        given = "a list" if isinstance(root.value, list) else repr(root.value)[:100]
        source.mistakes.append((place, Mistake((path.name,), "sections with fields", given)))
    return source


def _collect(nodes: dict[str, Node], prefix: FieldPath, model: type[BaseModel], file: str, source: Source) -> None:
    for name, node in nodes.items():
        path = (*prefix, name)
        place = Place(0, node.line, f"{file}:{node.line}")
        inner = section_of(model.model_fields.get(name))
        if name not in model.model_fields:
            suggest = len(source.mistakes) < MAX_SUGGESTIONS
            source.mistakes.append((place, unknown(path, Settings, suggest=suggest)))
        elif inner is None:
            source.values[path] = node.plain()
            source.places[path] = place
            source.places.update(_elements(path, node, file))
        elif isinstance(node.value, dict):
            _collect(node.value, path, inner, file, source)
        elif node.value is not None:  # a section whose fields are all commented out is empty
            source.mistakes.append((place, wrong(path, Settings, node.plain())))


def _elements(path: FieldPath, node: Node, file: str) -> dict[FieldPath, Place]:
    items = node.value if isinstance(node.value, list) else []
    return {(*path, i): Place(0, item.line, f"{file}:{item.line}") for i, item in enumerate(items)}


def from_environment(environ: Mapping[str, str]) -> Source:
    """`FEDLEARN_SECTION__FIELD` for every field, and Keras's own KERAS_BACKEND."""
    source = Source()
    if backend := environ.get("KERAS_BACKEND"):
        _set(source, BACKEND, backend, Place(1, 0, "environment KERAS_BACKEND"))
    known = {_variable(path).replace("__", "_"): path for path, _ in leaves(Settings)}
    for variable in sorted(name for name in environ if name.startswith(PREFIX)):
        place = Place(1, 0, f"environment {variable}")
        path: FieldPath = tuple(variable.removeprefix(PREFIX).lower().split("__"))
        meant = known.get(variable.replace("__", "_"))
        if meant is not None and variable != _variable(meant):
            words = f"the variable {_variable(meant)} (two underscores between names)"
            source.mistakes.append((place, Mistake(meant, words, variable)))
        elif len(path) > 1:  # others with this prefix are not settings
            _set(source, path, environ[variable], place)
    return source


def _variable(path: FieldPath) -> str:
    return PREFIX + "__".join(map(str, path)).upper()


def from_flags(overrides: Sequence[str]) -> Source:
    """`section.field=value`; of two for one field, the last wins."""
    source = Source()
    for override in overrides:
        name, equals, value = override.partition("=")
        path: FieldPath = tuple(name.strip().split("."))
        place = Place(2, 0, f"--set {name.strip()}")
        if equals:
            _set(source, path, value, place)
        else:
            source.mistakes.append((place, Mistake(path, "section.field=value", repr(override[:100]))))
    return source


def _set(source: Source, path: FieldPath, text: str, place: Place) -> None:
    field = field_at(Settings, path)
    if field is None or not exists(path, Settings):
        source.mistakes.append((place, unknown(path, Settings)))
    elif section_of(field) is not None:
        source.mistakes.append((place, wrong(path, Settings, text)))
    else:
        source.values[path] = from_text(field, text)
        source.places[path] = place
