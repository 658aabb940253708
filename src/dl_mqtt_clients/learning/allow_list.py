"""What a model description may name, checked on its JSON before Keras sees any of it.

Allowed are Keras's own layers, losses, optimizers, initialisers, regularisers, constraints, activations and tensor
operations. Not allowed is whatever executes code (Lambda), wraps foreign code (TorchModuleWrapper, JaxLayer,
FlaxLayer, TFSMLayer), reads files or loops over counts in the description (preprocessing layers), or carries arrays.
"""

import importlib
import inspect
import math
from collections.abc import Collection, Iterator
from typing import Any, Final

import keras

from dl_mqtt_clients.errors import ModelError

MAX_DEPTH: Final = 64
MAX_NODES: Final = 500_000
MAX_TEXT: Final = 10_000
MAX_NUMBER: Final = 2**53

# public namespace -> where its classes are defined: JaxLayer stands in keras.layers, but comes from elsewhere
_ROOMS: Final = {
    "keras.layers": "keras.src.layers.",
    "keras.losses": "keras.src.losses.",
    "keras.optimizers": "keras.src.optimizers.",
    "keras.optimizers.schedules": "keras.src.optimizers.schedules.",
    "keras.initializers": "keras.src.initializers.",
    "keras.regularizers": "keras.src.regularizers.",
    "keras.constraints": "keras.src.constraints.",
}
_EXTRA: Final = frozenset(
    {
        ("keras", "Sequential"),
        ("keras", "Functional"),
        ("keras.models", "Sequential"),
        ("keras.src.models.sequential", "Sequential"),
        ("keras.src.models.functional", "Functional"),
        ("keras", "DTypePolicy"),
        ("keras.dtype_policies", "DTypePolicy"),
    }
)
_OPERATIONS: Final = ("keras.src.ops.numpy", "keras.src.ops.nn", "keras.src.ops.math")
_DENIED: Final = frozenset(
    {
        "Lambda",
        "Layer",
        "Wrapper",
        "Loss",
        "Optimizer",
        "Muon",  # searches regular expressions from its configuration
        "MultiOptimizer",
        "OptimizerMap",
        "STFTInitializer",  # computes arrays of a configured size while it is built
        "STFT",
    }
)
_PREPROCESSING: Final = "keras.src.layers.preprocessing."
_PLAIN_PREPROCESSING: Final = frozenset({"Rescaling", "Normalization"})
_MARKS: Final = frozenset({"__keras_tensor__", "__slice__", "__ellipsis__"})


def check(value: object, *, place: str, custom_modules: Collection[str] = ()) -> None:
    """Walk a description. ModelError names the place and the reason of the first thing that is not allowed."""
    stack = [(value, place, 0)]
    nodes = 0
    while stack:
        item, where, depth = stack.pop()
        nodes += 1
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise ModelError(f"{place}: expected depth ≤ {MAX_DEPTH} and ≤ {MAX_NODES} values. Received: more")
        _check_scalar(item, where, custom_modules)
        if isinstance(item, dict) and "class_name" in item:
            _check_object(item, where, custom_modules)
        stack.extend((child, name, depth + 1) for child, name in _children(item, where))


def import_modules(names: Collection[str]) -> None:
    """Import the modules that the node's own configuration trusts, so that their classes are registered."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ModelError(f"custom module {name!r}: cannot be imported: {error}") from error


def _children(item: object, where: str) -> Iterator[tuple[object, str]]:
    if isinstance(item, dict):
        for key, child in item.items():
            yield child, f"{where}.{key[:64]}"
    elif isinstance(item, list):
        for index, child in enumerate(item):
            yield child, f"{where}[{_name(child) or index}]"


def _name(item: object) -> str:
    config = item.get("config") if isinstance(item, dict) else None
    name = config.get("name") if isinstance(config, dict) else None
    return name[:64] if isinstance(name, str) else ""


def _check_scalar(item: object, where: str, custom_modules: Collection[str]) -> None:
    if isinstance(item, str):
        if len(item) > MAX_TEXT:
            raise ModelError(f"{where}: expected at most {MAX_TEXT} characters. Received: {len(item)}")
        # Keras looks plain strings up among the registered functions, too.
        _check_registered(item, where, custom_modules)
    elif isinstance(item, float) and not math.isfinite(item):
        raise ModelError(f"{where}: expected a finite number. Received: {item}")
    elif isinstance(item, int) and abs(item) > MAX_NUMBER:
        raise ModelError(f"{where}: expected a number up to 2^53. Received: a larger one")
    elif not isinstance(item, (str, int, float, dict, list, type(None))):
        raise ModelError(f"{where}: expected JSON. Received: {type(item).__name__}")


def _check_object(item: dict[str, Any], where: str, custom_modules: Collection[str]) -> None:
    kind, module = item["class_name"], item.get("module")
    if isinstance(kind, str) and kind in _MARKS:
        return
    registered = item.get("registered_name", kind)
    if not isinstance(kind, str) or not isinstance(module, str) or not isinstance(registered, (str, type(None))):
        raise ModelError(f"{where}: expected text as module, class_name and registered_name. Received: another")
    # Keras looks classes up by their registered name, functions by their configuration.
    name = item.get("config") if kind == "function" else registered
    if isinstance(name, str) and _check_registered(name, where, custom_modules):
        return
    allowed = _is_function(module, item.get("config")) if kind == "function" else _is_class(module, kind)
    if not allowed:
        raise ModelError(f"{where}: {_refusal(kind, module, item.get('config'))}")


def _check_registered(name: str, where: str, custom_modules: Collection[str]) -> bool:
    """Whether `name` is a registered object from a trusted module; ModelError when it is from any other."""
    found = keras.saving.get_registered_object(name) if name else None
    if found is None:
        return False
    source = getattr(inspect.unwrap(found), "__module__", "") if callable(found) else ""
    if source not in custom_modules:
        raise ModelError(
            f"{where}: {name!r} comes from module {source!r}, which is not among the custom modules"
            f" that this node's configuration allows ({', '.join(custom_modules) or 'none'})"
        )
    return True


def _is_function(module: str, name: object) -> bool:
    if not isinstance(name, str) or name in ("get", "serialize", "deserialize"):
        return False
    rooms = [r for r in (keras.activations, keras.losses) if module in ("builtins", r.__name__)]
    return any(inspect.isfunction(vars(room).get(name)) for room in rooms)


def _is_class(module: str, kind: str) -> bool:
    if (module, kind) in _EXTRA:
        return True
    if module in _OPERATIONS:
        found = vars(importlib.import_module(module)).get(kind)
        return inspect.isclass(found) and issubclass(found, keras.Operation) and found.__module__ == module
    if module not in _ROOMS or kind in _DENIED:
        return False
    found = vars(importlib.import_module(module)).get(kind)
    if not inspect.isclass(found):
        return False
    if found.__module__.startswith(_PREPROCESSING):
        return kind in _PLAIN_PREPROCESSING
    return found.__module__.startswith(_ROOMS[module]) and "spectro" not in kind.lower()


def _refusal(kind: str, module: str, config: object) -> str:
    if kind in ("Lambda", "__lambda__"):
        return "a Lambda holds code, which is never sent; write it with layers or keras.ops"
    if kind in ("__numpy__", "__tensor__"):
        return "a constant array is not allowed in a description; hold it in a layer's weight"
    if kind == "function":
        name = config[:64] if isinstance(config, str) else "?"
        return (
            f"the function {name!r} of module {module[:128]!r} is not one of Keras's; register it with"
            " keras.saving.register_keras_serializable and name its module in custom_modules"
        )
    return f"{module[:128]}.{kind[:64]} is not on the list of layers, losses and optimizers that may be rebuilt"
