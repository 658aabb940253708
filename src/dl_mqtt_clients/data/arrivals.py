"""When the readings of a stream came: a bounded number of marks, never narrower than the truth.

A mark says of the readings since the mark before it: none came before `oldest_s`, none after `newest_s`. Readings that
come together share one. When there are too many, neighbours that cover little time become one mark: of a stream of T
seconds a mark then covers at most 4 T / `most`.
"""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from dl_mqtt_clients.errors import DataError

TOGETHER_S: Final = 1.0  # a mark covers at least so much, while readings come


class Span(NamedTuple):
    """Seconds by one clock; None: not known."""

    oldest_s: float | None = None
    newest_s: float | None = None


class Mark(NamedTuple):
    end: int  # readings that had ever come by then
    oldest_s: float
    newest_s: float


class Arrivals:
    """Of the readings before absolute index `first`, and of those after the last mark, nothing is known."""

    def __init__(self, first: int = 0, marks: Iterable[Mark] = (), *, most: int = 2048) -> None:
        """At most so many marks, ≥ 8. DataError when they are not in order."""
        self.first = first
        self.marks = list(marks)
        self._most = most
        ends = [first, *(mark.end for mark in self.marks)]
        is_rising = all(a < b for a, b in pairwise(ends))
        if first < 0 or not is_rising or not all(m.oldest_s <= m.newest_s for m in self.marks):
            raise DataError(f"arrivals: expected rising indices ≥ 0, and oldest_s ≤ newest_s. Received: {ends[:4]} …")

    @property
    def end(self) -> int:
        """Readings that had come by the last mark."""
        return self.marks[-1].end if self.marks else self.first

    def add(self, end: int, oldest_s: float, newest_s: float) -> None:
        """The readings since the last mark, up to index `end` - 1, came between these times."""
        if end <= self.end:
            return
        last = self.marks[-1] if self.marks else None
        if last is not None and newest_s - last.oldest_s <= TOGETHER_S:
            self.marks[-1] = _both(last, Mark(end, oldest_s, newest_s))
        else:
            self.marks.append(Mark(end, oldest_s, newest_s))
        if len(self.marks) > self._most:
            self._thin()

    def forget(self, before: int) -> None:
        """The readings before this index are of no interest any more."""
        gone = bisect_right(self.marks, before, key=_end)
        if gone:
            self.first = self.marks[gone - 1].end
            del self.marks[:gone]

    def span(self, first: int, end: int) -> Span:
        """When the readings first … end - 1 came: a side is None where nothing is known of the reading there."""
        if first >= end:
            return Span()
        oldest, newest = self._mark_of(first), self._mark_of(end - 1)
        return Span(oldest and oldest.oldest_s, newest and newest.newest_s)

    def _mark_of(self, index: int) -> Mark | None:
        place = bisect_right(self.marks, index, key=_end)
        return self.marks[place] if self.first <= index and place < len(self.marks) else None

    def _thin(self) -> None:
        """Of the pairs of neighbours, that half which covers less time becomes one mark each."""
        pairs = [_both(*self.marks[k : k + 2]) for k in range(0, len(self.marks) - 1, 2)]
        by_time = sorted(range(len(pairs)), key=lambda k: pairs[k].newest_s - pairs[k].oldest_s)
        for k in sorted(by_time[: (len(pairs) + 1) // 2], reverse=True):
            self.marks[2 * k : 2 * k + 2] = [pairs[k]]


def _end(mark: Mark) -> int:
    return mark.end


def _both(earlier: Mark, later: Mark) -> Mark:
    return Mark(later.end, min(earlier.oldest_s, later.oldest_s), max(earlier.newest_s, later.newest_s))
