"""When readings came: known in bounded memory, and never more narrowly than it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.data.arrivals import TOGETHER_S, Arrivals, Mark, Span
from dl_mqtt_clients.errors import DataError


def test_readings_that_came_apart_are_told_apart():
    arrivals = Arrivals()
    arrivals.add(10, 100.0, 100.5)
    arrivals.add(20, 200.0, 200.5)
    arrivals.add(30, 300.0, 300.5)
    assert arrivals.span(0, 30) == Span(100.0, 300.5)
    assert arrivals.span(10, 20) == Span(200.0, 200.5)
    assert arrivals.span(9, 11) == Span(100.0, 200.5)


def test_readings_that_came_together_share_a_mark():
    arrivals = Arrivals()
    for end in range(1, 101):
        arrivals.add(end, end / 50, end / 50)
    assert len(arrivals.marks) == 2
    assert arrivals.span(0, 100) == Span(0.02, 2.0)


def test_nothing_is_known_of_readings_before_the_first_mark_and_after_the_last():
    arrivals = Arrivals(first=50)
    arrivals.add(60, 1.0, 2.0)
    assert arrivals.span(40, 60) == Span(None, 2.0)
    assert arrivals.span(50, 61) == Span(1.0, None)
    assert arrivals.span(0, 50) == Span(None, None)
    assert arrivals.span(50, 60) == Span(1.0, 2.0)


def test_no_readings_came_at_no_time():
    assert Arrivals().span(0, 0) == Span()
    assert Arrivals(3, [Mark(7, 1.0, 2.0)]).span(5, 5) == Span()


def test_what_came_already_does_not_come_again():
    arrivals = Arrivals(3, [Mark(7, 1.0, 2.0)])
    arrivals.add(7, 50.0, 60.0)
    assert arrivals.span(3, 7) == Span(1.0, 2.0)


def test_what_is_forgotten_is_not_known_and_the_rest_is():
    arrivals = Arrivals(0, [Mark(10, 1.0, 2.0), Mark(20, 3.0, 4.0)])
    arrivals.forget(9)
    assert arrivals.span(0, 20) == Span(1.0, 4.0)
    arrivals.forget(10)
    assert (arrivals.first, arrivals.marks) == (10, [Mark(20, 3.0, 4.0)])
    assert arrivals.span(0, 20) == Span(None, 4.0)
    arrivals.forget(20)
    assert (arrivals.end, arrivals.marks) == (20, [])


@pytest.mark.parametrize(
    ("first", "marks"),
    [(-1, []), (5, [Mark(5, 0.0, 0.0)]), (0, [Mark(2, 0.0, 0.0), Mark(1, 1.0, 1.0)]), (0, [Mark(1, 2.0, 1.0)])],
)
def test_marks_out_of_order_are_a_mistake(first, marks):
    with pytest.raises(DataError, match=r"arrivals: expected rising indices ≥ 0"):
        Arrivals(first, marks)


steps = st.lists(
    st.tuples(st.integers(1, 5), st.floats(0.0, 1e6), st.floats(0.0, 3.0)), min_size=1, max_size=200
)  # readings that come together, s since those before, s they take


@given(steps, st.integers(8, 20), st.data())
def test_what_is_said_holds_what_was_and_little_more(steps, most, data):
    """Of any readings of any stream; in bounded memory."""
    arrivals, times, now = Arrivals(most=most), [], 0.0
    for count, pause_s, takes_s in steps:
        begin, now = now + pause_s, now + pause_s + takes_s
        times += [(begin, now)] * count
        arrivals.add(len(times), begin, now)
        assert len(arrivals.marks) <= most
    first = data.draw(st.integers(0, len(times) - 1))
    end = data.draw(st.integers(first + 1, len(times)))
    oldest_s, newest_s = arrivals.span(first, end)
    too_wide_s = max(TOGETHER_S, 4 * now / most) + 1e-6 * now
    assert times[first][0] - too_wide_s <= oldest_s <= times[first][0]
    assert times[end - 1][1] <= newest_s <= times[end - 1][1] + too_wide_s


@given(steps, st.lists(st.integers(0, 1000)))
def test_forgetting_changes_nothing_of_what_is_kept(steps, forgotten):
    whole, part, end, now = Arrivals(), Arrivals(), 0, 0.0
    for count, pause_s, takes_s in steps:
        end, begin = end + count, now + pause_s
        now = begin + takes_s
        whole.add(end, begin, now)
        part.add(end, begin, now)
    for before in forgotten:
        part.forget(min(before, end - 1))
    kept = max([min(before, end - 1) for before in forgotten], default=0)
    assert part.span(kept, end) == whole.span(kept, end)
