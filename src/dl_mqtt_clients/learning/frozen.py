"""What a core's configuration does not say of its training: frozen weights, and LoRA adapters.

Keras keeps each layer's `trainable`, but not that of a weight alone; it loses LoRA on layers inside layers (the
projections of MultiHeadAttention), and of Dense and Embedding the adapter's alpha. So a description has, where any of
this is used, `"training": {"frozen_layers": […], "frozen_weights": […], "lora": [[layer, rank, alpha], …]}`; layers
are counted as they are walked, parents first, and weights as `core.weights` lists them.

LoRA: Hu et al., ICLR 2022 (arXiv:2106.09685): W + (alpha / rank) A B, where W is frozen, A and B are trained.
"""

from typing import Any, Final

import keras

from dl_mqtt_clients.errors import ModelError

_KEYS: Final = frozenset({"frozen_layers", "frozen_weights", "lora"})


def training_of(core: keras.Model) -> dict[str, Any] | None:
    """The description's part for this core; None when its configuration says all."""
    layers, weights = _layers(core), _declared_trainable(core)
    found = {
        "frozen_layers": [i for i, layer in enumerate(layers) if not layer.trainable],
        "frozen_weights": [i for i, weight in weights if not weight.trainable],
        "lora": [
            [i, layer.lora_rank, layer.lora_alpha]
            for i, layer in enumerate(layers)
            if getattr(layer, "lora_enabled", False)
        ],
    }
    return found if any(found.values()) else None


def set_training(core: keras.Model, training: object) -> None:
    """Freeze and adapt as `training_of` said; untrusted. ModelError when it does not fit this core."""
    if training is None:
        return
    if not isinstance(training, dict) or set(training) != _KEYS:
        raise ModelError(f"training: expected {', '.join(sorted(_KEYS))}. Received: others")
    layers = _layers(core)
    for adapter in _list(training["lora"], "lora"):
        _adapt(layers, adapter)
    frozen = _indices(training["frozen_layers"], "frozen_layers", len(layers))
    # Parents come first, and setting theirs sets their children's.
    for i, layer in enumerate(layers):
        if layer.trainable != (i not in frozen):
            layer.trainable = i not in frozen
    positions = _indices(training["frozen_weights"], "frozen_weights", len(core.weights))
    for i, weight in _declared_trainable(core):
        weight.trainable = i not in positions


def _layers(core: keras.Model) -> list[keras.layers.Layer]:
    return list(core._flatten_layers())  # noqa: SLF001  # the one way to reach layers inside layers


def _declared_trainable(core: keras.Model) -> list[tuple[int, Any]]:
    """(position, weight) of those made to be trained, whether they are now or not."""
    declared = {id(v) for layer in _layers(core) for v in layer._trainable_variables}  # noqa: SLF001  # not public
    return [(i, v) for i, v in enumerate(core.weights) if id(v) in declared]


def _adapt(layers: list[keras.layers.Layer], adapter: object) -> None:
    place = f"training.lora: expected [layer, rank, alpha]. Received: {str(adapter)[:100]}"
    if not isinstance(adapter, list) or len(adapter) != 3:
        raise ModelError(place)
    index, rank, alpha = adapter
    if not (_is_count(index) and index < len(layers) and _is_count(rank) and rank):
        raise ModelError(place)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not 0 < alpha < 2**53:
        raise ModelError(place)
    layer = layers[index]
    if not hasattr(layer, "enable_lora"):
        raise ModelError(f"training.lora: expected a layer that can be adapted. Received: {layer.name[:64]}")
    if not layer.lora_enabled:
        layer.enable_lora(rank, lora_alpha=alpha)
    if layer.lora_rank != rank:
        raise ModelError(f"training.lora: expected rank {layer.lora_rank}, as {layer.name[:64]} says. Received: {rank}")
    layer.lora_alpha = alpha


def _indices(value: object, name: str, count: int) -> frozenset[int]:
    found = _list(value, name)
    if not all(_is_count(i) and i < count for i in found):
        raise ModelError(f"training.{name}: expected numbers from 0 to {count - 1}. Received: others")
    return frozenset(found)


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ModelError(f"training.{name}: expected a list. Received: {type(value).__name__}")
    return value


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
