"""Braille charts."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dl_mqtt_clients.dashboard.charts import limits, line_chart, logarithms

NUMBERS = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))


@given(st.lists(NUMBERS, max_size=30), st.integers(1, 60), st.integers(1, 20), st.integers(0, 50))
def test_a_chart_has_the_size_asked_for_whatever_the_values(values, width, height, slots):
    lines = line_chart(values, width=width, height=height, low=0.0, high=1.0, slots=slots)
    assert [len(line) for line in lines] == [width] * height
    assert all(0x2800 <= ord(character) <= 0x28FF for line in lines for character in line)


def test_a_rising_line_goes_from_the_bottom_left_to_the_top_right():
    lines = line_chart([0.0, 1.0], width=8, height=4, low=0.0, high=1.0)
    assert lines[-1][0] != "⠀"
    assert lines[0][-1] != "⠀"
    assert lines[0][0] == lines[-1][-1] == "⠀"


def test_values_that_have_not_come_leave_the_right_empty():
    (line,) = line_chart([0.5, 0.5], width=10, height=1, low=0.0, high=1.0, slots=11)
    assert line[:1] != "⠀"
    assert set(line[2:]) == {"⠀"}


def test_an_unknown_value_is_passed_over():
    assert line_chart([0.5, None, 0.5], width=9, height=3, low=0.0, high=1.0) == line_chart(
        [0.5, 0.5, 0.5], width=9, height=3, low=0.0, high=1.0
    )


def test_one_value_is_a_dot():
    lines = line_chart([0.5], width=4, height=2, low=0.0, high=1.0)
    assert sum(character != "⠀" for line in lines for character in line) == 1


def test_logarithms_of_what_has_none_are_unknown():
    assert logarithms([100.0, 0.0, -1.0, None, math.nan, math.inf]) == [2.0, None, None, None, None, None]


def test_limits_leave_room_and_survive_nothing():
    assert limits([]) == (0.0, 1.0)
    low, high = limits([1.0, None, 2.0])
    assert low < 1.0 < 2.0 < high
    low, high = limits([3.0])
    assert low < 3.0 < high
