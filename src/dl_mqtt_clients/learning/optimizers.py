"""Optimizers from text, as a round announces them: `SGD(momentum=0.9)`, `AdamW(weight_decay=0.01)`, …

Only Keras's own from a list, with plain numbers; nothing else can be named.
"""

import copy
import inspect
from collections.abc import Mapping
from typing import Any, Final

import keras

from dl_mqtt_clients.errors import ModelError
from dl_mqtt_clients.learning.text_forms import parse_call

NAMES: Final = (
    "SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "Nadam", "RMSprop", "Lion", "Ftrl", "Lamb", "Adafactor",
)  # fmt: skip
_NOT_NUMBERS: Final = frozenset({"self", "name", "kwargs"})


def make_optimizer(text: str, own: Mapping[str, Any]) -> keras.optimizers.Optimizer:
    """A new optimizer: the one `text` names, or for "" the model's `own`, from its configuration.

    Raises:
        ModelError: another name, an unknown setting, or a value Keras refuses.

    """
    if not text.strip():
        return keras.optimizers.get(copy.deepcopy(dict(own)))  # Keras changes what it reads
    name, values = parse_call(text, place="optimizer")
    if name not in NAMES:
        raise ModelError(f"optimizer: expected one of {', '.join(NAMES)}. Received: {name!r}")
    kind = getattr(keras.optimizers, name)
    known = {k: p.default for k, p in inspect.signature(kind).parameters.items() if k not in _NOT_NUMBERS}
    for key, value in values.items():
        if key not in known:
            raise ModelError(f"optimizer: expected {name}({', '.join(known)}). Received: {key}=…")
        if isinstance(known[key], float) and not isinstance(value, bool):
            values[key] = float(value)  # Keras insists on 1.0 for 1
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ModelError(f"optimizer: Keras refuses {text[:200]!r}: {str(error)[:300]}") from error
