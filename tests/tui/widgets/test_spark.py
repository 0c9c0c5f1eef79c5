from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tui.widgets.spark import ASCII_BARS, BARS, spark


def test_bars_grow_with_the_values_and_the_newest_is_at_the_right():
    assert spark([0.0, 1.0, 3.5, 7.0], 6) == "  ▁▂▅█"


def test_only_the_last_values_fit():
    assert spark([7.0, 0.0, 7.0], 2) == "▁█"


def test_what_was_not_measured_is_blank_and_not_zero():
    assert spark([7.0, None, 0.0], 3) == "█ ▁"


def test_nothing_but_zero_is_a_flat_line():
    assert spark([0.0, 0.0], 2) == "▁▁"


def test_small_values_stay_small_under_a_full_scale():
    assert spark([0.01], 1, full=1.0) == "▁"


def test_the_smallest_number_there_is_fills_the_line():
    assert spark([5e-324], 1) == "█"


def test_an_ascii_terminal_gets_ascii():
    assert spark([0.0, 7.0], 2, plain=True) == "_#"


@given(st.lists(st.none() | st.floats(-1e9, 1e9, allow_nan=False), max_size=50), st.integers(0, 60), st.booleans())
def test_it_always_has_the_asked_width(values: list[float | None], width: int, plain: bool):
    line = spark(values, width, plain=plain)
    assert len(line) == width
    assert set(line) <= set(" " + (ASCII_BARS if plain else BARS))
