"""Backoff against literals and its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.backoff import Backoff


def test_the_cap_doubles_from_the_initial_wait_to_the_maximum():
    backoff = Backoff(0.1, 1.0)
    assert [round(backoff.next(1.0), 6) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_the_wait_is_the_random_share_of_the_cap():
    backoff = Backoff(2.0, 30.0)
    assert (backoff.next(0.0), backoff.next(0.5), backoff.next(0.25)) == (0.0, 2.0, 2.0)


def test_a_success_starts_over():
    backoff = Backoff(1.0, 30.0)
    assert [backoff.next(1.0), backoff.next(1.0)] == [1.0, 2.0]
    backoff.reset()
    assert backoff.next(1.0) == 1.0


def test_five_crashes_in_a_minute_are_forgiven_and_the_sixth_waits_long():
    backoff = Backoff(0.1, 30.0)
    waits = []
    for second in range(6):
        waits.append(backoff.crashed(float(second), 0.5))
        backoff.reset()  # it starts well each time: that does not end the loop
    assert waits == [0.0] * 5 + [22.5]


def test_crashes_that_lie_further_apart_are_no_loop():
    backoff = Backoff(0.1, 30.0)
    assert [backoff.crashed(second * 15.0, 0.5) for second in range(20)] == [0.0] * 20


def test_a_loop_ends_when_the_crashes_grow_old():
    backoff = Backoff(0.1, 30.0)
    for second in range(5):
        backoff.crashed(float(second), 0.5)
    assert backoff.crashed(59.9, 0.0) == 15.0
    assert backoff.crashed(70.0, 0.0) == 0.0


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=200), st.floats(0.001, 10), st.floats(10, 100))
def test_no_wait_is_negative_or_beyond_the_maximum(randoms, initial, maximum):
    backoff = Backoff(initial, maximum)
    assert all(0 <= backoff.next(random) <= maximum for random in randoms)
