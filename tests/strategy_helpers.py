"""Small models and updates for the tests of strategies."""

import numpy as np
from hypothesis import strategies as st

from dl_mqtt_clients.aggregation.strategies import Aggregator, Strategy, Update
from dl_mqtt_clients.aggregation.strategies.strategy import of_part
from dl_mqtt_clients.wire.messages import Variable

SHAPES = ((2, 3), (4,), ())
SIZE = 11


def variable(shape, path="layer/kernel", role="trainable"):
    return Variable(role=role, shape=tuple(shape), dtype="float32", path=path)


def trainables(shapes=SHAPES):
    return [variable(shape, f"layer_{i}/kernel") for i, shape in enumerate(shapes)]


def arrays_of(vector, shapes=SHAPES):
    """A flat vector as arrays of these shapes."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    parts = np.split(np.asarray(vector, np.float32), np.cumsum(sizes)[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def flat(arrays):
    return np.concatenate([np.asarray(a).reshape(-1) for a in arrays])


def updates_of(vectors, *, examples=None, steps=None, staleness=None, shapes=SHAPES):
    n = len(vectors)
    return [
        Update(
            node=f"node-{k:02d}",
            arrays=arrays_of(vector, shapes),
            examples=(examples or [10] * n)[k],
            steps=(steps or [1] * n)[k],
            staleness=(staleness or [0] * n)[k],
        )
        for k, vector in enumerate(vectors)
    ]


def aggregator(strategy, variables=None, *, base=None, state=None, max_examples=10_000):
    variables = variables or trainables()
    base = base if base is not None else [np.zeros(v.shape, np.float32) for v in variables]
    return Aggregator(
        strategy if isinstance(strategy, Strategy) else of_part(strategy),
        variables,
        base=base,
        state=state,
        max_delta=100.0,
        max_examples=max_examples,
        max_updates=100,
    )


def merge(strategy, updates, **settings):
    """All at once: Merged."""
    running = aggregator(strategy, **settings)
    for update in updates:
        running.add(update)
    return running.result(updates)


def change(strategy, vectors, *, examples=None, steps=None, staleness=None):
    """The flat change that these updates come to."""
    shapes = ((len(vectors[0]),),)
    updates = updates_of(vectors, examples=examples, steps=steps, staleness=staleness, shapes=shapes)
    return flat(merge(strategy, updates, variables=trainables(shapes)).change)


def bits(merged):
    """Everything that a merge comes to, as bytes."""
    return (
        [a.tobytes() for a in merged.change],
        {name: array.tobytes() for name, array in sorted(merged.state.items())},
        merged.weights,
    )


def vectors(width=SIZE, *, least=1, most=9, limit=50.0):
    """n vectors of `width` coordinates, n from `least` to `most`."""
    value = st.floats(-limit, limit, width=32)
    return st.lists(st.lists(value, min_size=width, max_size=width), min_size=least, max_size=most)
