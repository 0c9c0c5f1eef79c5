"""The budget of retries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.retries import FLOOR, RATIO, WINDOW, Retries


def test_a_storm_of_failures_adds_no_more_than_a_fifth() -> None:
    retries = Retries()
    for call in range(100_000):  # 1000 a second, every one fails
        retries.calls += 1
        retries.spend(call / 1000)
    assert 20_000 <= retries.total <= 20_000 + FLOOR * 100 + FLOOR * WINDOW
    assert retries.refused == 100_000 - retries.total


def test_few_calls_may_all_be_sent_again() -> None:
    retries = Retries()
    for second in range(100):
        retries.calls += 5
        assert all(retries.spend(float(second)) for _ in range(5))


def test_calls_of_long_ago_earn_nothing() -> None:
    retries = Retries()
    assert retries.spend(0.0)
    retries.calls += 1_000_000
    granted = 0
    while retries.spend(100_000.0):
        granted += 1
    assert granted <= FLOOR * WINDOW + RATIO * 1_000_000 * WINDOW / 100_000 + 1


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0.0, 20.0)), max_size=60))
def test_never_more_than_share_and_floor(steps: list[tuple[int, float]]) -> None:
    retries, now = Retries(), 0.0
    for calls, seconds in steps:
        retries.calls += calls
        now += seconds
        for _ in range(20):
            retries.spend(now)
        assert retries.total <= RATIO * retries.calls + FLOOR * now + FLOOR * WINDOW + 1e-6
