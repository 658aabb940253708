"""A transformer whose backbone is frozen: its adapters and its head are what training moves and what travels."""

import keras
import numpy as np

layers = keras.layers
TIMES, WIDTH, HEADS, RANK = 8, 32, 2, 2
HEAD = (WIDTH + 1) * 1


def transformer():
    """Readings of 8 time steps × 4 values -> one probability; two blocks of attention and a network each."""
    x = keras.Input((TIMES * 4,), name="reading")
    y = layers.Dense(WIDTH, name="embed")(layers.Reshape((TIMES, 4))(x))
    for block in ("first", "second"):
        attention = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"{block}_attention")
        y = layers.LayerNormalization(name=f"{block}_norm")(layers.Add()([y, attention(y, y)]))
        inner = layers.Dense(WIDTH, name=f"{block}_out")(
            layers.Dense(2 * WIDTH, activation="gelu", name=f"{block}_in")(y)
        )
        y = layers.BatchNormalization(name=f"{block}_batch_norm")(layers.Add()([y, inner]))
    output = layers.Dense(1, activation="sigmoid", name="head")(layers.GlobalAveragePooling1D()(y))
    return keras.Model(x, output, name="transformer")


def freeze(core, *, rank=RANK):
    """The user's own lines: freeze all but the head, adapt every Dense and the attentions' projections."""
    for layer in core.layers:
        layer.trainable = layer.name == "head"
    adapters = 0
    for layer in core._flatten_layers():
        if isinstance(layer, (layers.Dense, layers.EinsumDense)) and layer.name != "head":
            layer.trainable = True
            layer.enable_lora(rank)
            if layer.bias is not None:
                layer.bias.trainable = False
            adapters += 2
    core.compile(keras.optimizers.Adam(0.01), "binary_crossentropy")
    return adapters


def node_data(rng):
    """Two nodes that see different classes more often; the class shows in where the values go in time."""
    data = []
    for k, share in enumerate((0.3, 0.7)):
        y = rng.random(128) < share
        start = rng.normal(size=(128, 1, 4)) * 0.7
        trend = np.where(y, 1.0, -1.0)[:, None, None] * np.linspace(0, 1, TIMES)[None, :, None]
        noise = rng.normal(size=(128, TIMES, 4)) * 0.3
        data.append(((start + trend + noise).reshape(128, -1).astype("float32"), y.astype("float32"), k))
    return data
