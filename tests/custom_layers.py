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
def squared(x):
    return x * x


def unregistered(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)
