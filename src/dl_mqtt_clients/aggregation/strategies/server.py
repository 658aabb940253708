"""A server step over the whole model, and the state of a strategy as named arrays.

State travels to disk as safetensors: `step.FedAdam/momentum/0007` is float32 of the variable's shape,
`transform.0.AdaptiveClip/bound` a float64 number. The part's name is in the key, so that
another strategy starts afresh.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dl_mqtt_clients.aggregation.fixed_point import BLOCK
from dl_mqtt_clients.aggregation.strategies.layout import Layout
from dl_mqtt_clients.aggregation.strategies.parts import Step
from dl_mqtt_clients.aggregation.strategies.transforms import State
from dl_mqtt_clients.errors import StateError


def run_step(step: Step, changes: Sequence[np.ndarray], layout: Layout, state: State) -> dict[str, np.ndarray]:
    """Overwrite `changes` (float64, one a trainable) by what the step makes of them; returns the step's new state."""
    new: dict[str, np.ndarray] = {}
    for place, change in zip(layout.trainables, changes, strict=True):
        names = {slot: f"step.{type(step).__name__}/{slot}/{layout.keys[place]}" for slot in step.slots}
        slots = {slot: _slot(state, name, change.shape, step.slots[slot]) for slot, name in names.items()}
        _run_blocks(step, change.reshape(-1), {slot: array.reshape(-1) for slot, array in slots.items()})
        new |= {name: slots[slot] for slot, name in names.items()}
    return new


def _run_blocks(step: Step, change: np.ndarray, slots: Mapping[str, np.ndarray]) -> None:
    for start in range(0, change.size, BLOCK):
        block = slice(start, start + BLOCK)
        piece, after = step.apply(change[block], {slot: a[block].astype(np.float64) for slot, a in slots.items()})
        change[block] = piece
        for slot, array in slots.items():
            array[block] = after[slot]


def _slot(state: State, name: str, shape: tuple[int, ...], initial: float) -> np.ndarray:
    """A copy of what was kept, or the value before the first round."""
    if name not in state:
        return np.full(shape, initial, dtype=np.float32)
    kept = state[name]
    if kept.shape != shape:
        raise StateError(f"{name}: expected shape {shape}. Received: {kept.shape}")
    return np.array(kept, dtype=np.float32)
