"""A line of numbers drawn with braille dots: two by four to a character."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column], Unicode's braille block
_BLANK: Final = 0x2800


class Point(NamedTuple):
    """In dots or characters, from the top left."""

    column: int
    row: int


def line_chart(
    values: Sequence[float | None], *, width: int, height: int, low: float, high: float, slots: int = 0
) -> list[str]:
    """`height` lines of `width` characters. Values are spread evenly over `slots` places (0: as many as there are).

    Values outside of low … high are drawn at the edge, None and NaN are passed over.
    """
    canvas = Point(2 * width - 1, 4 * height - 1)
    last = max(slots, len(values), 2) - 1
    points = [_point(place / last, _share(value, low, high), canvas) for place, value in enumerate(values)]
    cells: dict[Point, int] = {}
    for start, end in _segments(points):
        for column, row in _between(start, end):
            cell = Point(column // 2, row // 4)
            cells[cell] = cells.get(cell, 0) | _DOTS[row % 4][column % 2]
    return ["".join(chr(_BLANK + cells.get(Point(x, y), 0)) for x in range(width)) for y in range(height)]


def logarithms(values: Iterable[float | None]) -> list[float | None]:
    """Decimal logarithms; None where there is none."""
    return [math.log10(value) if value is not None and 0 < value < math.inf else None for value in values]


def limits(values: Iterable[float | None], *, margin: float = 0.05) -> tuple[float, float]:
    """Lowest and highest value with some room around; (0, 1) without values."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    room = margin * ((max(known) - min(known)) or 1.0)
    return min(known) - room, max(known) + room


def _share(value: float | None, low: float, high: float) -> float | None:
    """Where a value lies between low (0) and high (1)."""
    if value is None or math.isnan(value):
        return None
    return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)


def _point(across: float, up: float | None, canvas: Point) -> Point | None:
    return None if up is None else Point(round(across * canvas.column), round((1.0 - up) * canvas.row))


def _segments(points: Sequence[Point | None]) -> list[tuple[Point, Point]]:
    """Points joined with the next known one; a point alone is joined with itself."""
    known = [point for point in points if point is not None]
    return [*itertools.pairwise(known), *((point, point) for point in known[:1])]


def _between(start: Point, end: Point) -> list[Point]:
    """The dots of a straight line."""
    wide, high = end.column - start.column, end.row - start.row
    steps = max(abs(wide), abs(high), 1)
    return [
        Point(round(start.column + wide * k / steps), round(start.row + high * k / steps)) for k in range(steps + 1)
    ]
