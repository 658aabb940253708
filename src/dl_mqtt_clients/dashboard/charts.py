"""A line of numbers drawn with braille dots: two by four to a character."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

_DOTS: Final = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column], Unicode's braille block
_BLANK: Final = 0x2800

Point = tuple[int, int]  # column, row; in dots, from the top left


def line_chart(
    values: Sequence[float | None], *, width: int, height: int, low: float, high: float, slots: int = 0
) -> list[str]:
    """`height` lines of `width` characters. Values are spread evenly over `slots` places (0: as many as there are).

    Values outside of low … high are drawn at the edge, None and NaN leave a gap.
    """
    columns, rows = 2 * width, 4 * height
    places = max(slots, len(values))
    cells: dict[Point, int] = {}
    for start, end in _segments(_points(values, columns, rows, low, high, places)):
        for column, row in _between(start, end):
            cell = (column // 2, row // 4)
            cells[cell] = cells.get(cell, 0) | _DOTS[row % 4][column % 2]
    return ["".join(chr(_BLANK + cells.get((x, y), 0)) for x in range(width)) for y in range(height)]


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


def _points(
    values: Sequence[float | None], columns: int, rows: int, low: float, high: float, places: int
) -> list[Point | None]:
    span = (high - low) or 1.0
    points: list[Point | None] = []
    for place, value in enumerate(values):
        if value is None or math.isnan(value):
            points.append(None)
            continue
        height = min(max((value - low) / span, 0.0), 1.0)
        column = round(place * (columns - 1) / max(places - 1, 1))
        points.append((column, round((1.0 - height) * (rows - 1))))
    return points


def _segments(points: Sequence[Point | None]) -> list[tuple[Point, Point]]:
    """Neighbouring points joined; a point alone is joined with itself."""
    joined = [(a, b) for a, b in zip(points, points[1:], strict=False) if a is not None and b is not None]
    return joined + [(point, point) for point in points if point is not None]


def _between(start: Point, end: Point) -> list[Point]:
    """The dots of a straight line."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * k / steps), round(start[1] + (end[1] - start[1]) * k / steps))
        for k in range(steps + 1)
    ]
