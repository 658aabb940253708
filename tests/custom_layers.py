"""Layers and functions of a user's own module, as a node's configuration would name it."""

import keras

traces: list[tuple] = []


@keras.saving.register_keras_serializable(package="tests")
class Traced(keras.layers.Layer):
    """Passes its input on, and notes each time Python runs its call: once a compilation where code is compiled."""

    def call(self, x):
        traces.append(tuple(x.shape))
        return x

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tests")
class Counting(keras.layers.Layer):
    """Non-trainable weights of every kind: one that training assigns, a table it only reads, and a count of calls."""

    def build(self, input_shape):
        self.mean = self.add_weight(shape=(), initializer="zeros", trainable=False, name="mean")
        self.table = self.add_weight(shape=(), initializer="ones", trainable=False, name="table")
        self.calls = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="calls")

    def call(self, x, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * keras.ops.mean(x))
            self.calls.assign(self.calls + 1)
        return x * self.table

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tests")
def squared(x):
    return x * x


@keras.saving.register_keras_serializable(package="tests")
def towards(y_true, y_pred):
    """A loss without curvature."""
    return -keras.ops.mean(y_true * y_pred, axis=-1)


def unregistered(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)
