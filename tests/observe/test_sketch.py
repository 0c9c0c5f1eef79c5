"""The quantile sketch: close to the true value, additive, forgetful after five minutes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.observe.sketch import LARGEST, SLOT, SLOTS, SMALLEST, Window, add_up, bucket_of, quantile, value_of

durations = st.floats(1e-6, 1e4)


def window(values: list[float], now: float = 0.0) -> Window:
    sketch = Window()
    for value in values:
        sketch.add(value, now)
    return sketch


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from((0.5, 0.95, 0.99)))
def test_a_quantile_is_within_one_percent_of_the_true_one(values, q):
    estimate = quantile(window(values).buckets(0.0), q)
    true = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert estimate == pytest.approx(true, rel=0.0101)


@given(durations)
def test_every_value_is_within_one_percent_of_its_bucket(value):
    assert value_of(bucket_of(value)) == pytest.approx(value, rel=0.0101)


@given(st.lists(durations), st.lists(durations))
def test_two_sketches_add_up_to_the_sketch_of_all(one, two):
    assert add_up([window(one).buckets(0.0), window(two).buckets(0.0)]) == window(one + two).buckets(0.0)


def test_no_values_have_no_quantile():
    assert quantile({}, 0.5) is None


@pytest.mark.parametrize("odd", [0.0, -1.0, float("nan"), 1e-30])
def test_what_is_too_small_counts_as_the_smallest(odd):
    assert bucket_of(odd) == bucket_of(SMALLEST)


def test_what_is_too_large_counts_as_the_largest_and_the_number_of_buckets_is_bounded():
    assert bucket_of(float("inf")) == bucket_of(LARGEST)
    assert bucket_of(LARGEST) - bucket_of(SMALLEST) < 1400


def test_a_value_counts_for_more_than_four_and_at_most_five_minutes():
    sketch = Window()
    sketch.add(1.0, 29.0)
    assert sum(sketch.buckets(SLOT * SLOTS - 1).values()) == 1
    assert sketch.buckets(SLOT * SLOTS) == {}


def test_the_window_slides_while_values_come():
    sketch = Window()
    for second in range(900):
        sketch.add(1.0, float(second))
    assert 270 < sum(sketch.buckets(899.0).values()) <= 300
    assert len(sketch._old) < SLOTS


def test_a_long_silence_empties_the_window():
    sketch = window([1.0], 10.0)
    sketch.add(2.0, 10_000.0)
    assert sketch.buckets(10_000.0) == {bucket_of(2.0): 1}
