"""How long to wait before the next attempt to connect."""

import random
from collections.abc import Callable, Iterator

FIRST_S = 0.25
LONGEST_S = 15.0


def delays_s(
    *, first_s: float = FIRST_S, longest_s: float = LONGEST_S, uniform: Callable[[float, float], float] | None = None
) -> Iterator[float]:
    """Endless exponential back-off, drawn evenly from [first_s, limit], the limit doubling up to `longest_s`.

    Drawn, so that a thousand nodes that lost the same broker do not come back in the same moment.
    """
    draw = uniform or random.uniform
    limit_s = 2 * first_s
    while True:
        yield draw(first_s, min(limit_s, longest_s))
        limit_s = min(2 * limit_s, longest_s)
