"""SCAFFOLD's controls on the wire: as if the model had one more trainable variable beside each that is shared.

So a node's change of its control travels in its update, at the positions after the model's, by the same codec; the
control of all, c, is the manifest's blob `controls`, with the same keys. Absent is zero.
"""

from collections.abc import Sequence

from dl_mqtt_clients.wire.messages import Variable


def control_variables(variables: Sequence[Variable]) -> list[Variable]:
    """One for each shared trainable, in their order; float32, whatever the variable is."""
    return [
        Variable(role="trainable", shape=v.shape, dtype="float32", path=f"control/{v.path[:1900]}")
        for v in variables
        if v.role == "trainable"
    ]


def with_controls(variables: Sequence[Variable]) -> tuple[Variable, ...]:
    return (*variables, *control_variables(variables))


def control_positions(variables: Sequence[Variable]) -> tuple[int, ...]:
    """Where `with_controls` has them."""
    return tuple(range(len(variables), len(with_controls(variables))))
