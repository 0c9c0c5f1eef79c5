"""The circuit breaker, by examples and against a plain model."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcpbridge.core.breaker import Breaker, Rules


def fail(breaker: Breaker, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        breaker.ended(breaker.begin(now), False, now)


@pytest.mark.requirement("limit.breaker")
def test_it_opens_after_five_failures_in_a_row_tries_after_thirty_seconds_and_closes_after_two_successes() -> None:
    breaker = Breaker()
    fail(breaker, 4)
    breaker.ended(breaker.begin(0.0), True)
    fail(breaker, 4)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    assert not breaker.allows(29.9)
    assert breaker.remaining(10.0) == 20.0
    trial = breaker.begin(30.0)
    assert breaker.state == "half_open"
    assert not breaker.allows(30.0)  # one trial at once
    breaker.ended(trial, True)
    breaker.ended(breaker.begin(30.0), True)
    assert breaker.state == "closed"


def test_a_failed_trial_opens_it_again_for_as_long() -> None:
    breaker = Breaker()
    fail(breaker, 5)
    breaker.ended(breaker.begin(30.0), False, 31.0)
    assert breaker.state == "open"
    assert not breaker.allows(60.9)
    assert breaker.allows(61.0)


def test_failures_long_ago_are_forgotten() -> None:
    breaker = Breaker()
    fail(breaker, 4, 0.0)
    fail(breaker, 1, 61.0)
    assert breaker.state == "closed"
    fail(breaker, 4, 62.0)
    assert breaker.state == "open"


def test_what_tells_nothing_gives_its_place_back() -> None:
    breaker = Breaker()
    fail(breaker, 5)
    breaker.ended(breaker.begin(30.0), None)
    assert breaker.state == "half_open"
    assert breaker.allows(30.0)


def test_a_trial_that_never_ends_is_not_waited_for() -> None:
    breaker = Breaker()
    fail(breaker, 5)
    endless = breaker.begin(30.0)
    assert not breaker.allows(59.9)
    next_one = breaker.begin(60.0)
    breaker.ended(endless, False, 61.0)
    assert breaker.state == "half_open"
    breaker.ended(next_one, True)
    assert breaker.allows(62.0)


def test_calls_from_before_it_opened_have_no_say() -> None:
    breaker = Breaker()
    old = breaker.begin(0.0)
    fail(breaker, 5)
    breaker.ended(old, True)
    breaker.ended(breaker.begin(30.0), True)
    breaker.ended(old, False, 31.0)
    assert breaker.state == "half_open"


def test_news_of_its_being_well_begins_the_trials() -> None:
    breaker = Breaker()
    fail(breaker, 5)
    breaker.may_be_well(3.0)
    assert breaker.state == "open"
    assert breaker.allows(3.0)


class Machine(RuleBasedStateMachine):
    """Calls that begin and end in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(Rules(failures=3, successes=2, open_for=10.0, trials=2, forget=20.0))
        self.now = 0.0
        self.running: list[tuple[int, float]] = []
        self.opened_at: float | None = None

    @rule(seconds=st.floats(0.0, 15.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call(self) -> None:
        if self.breaker.allows(self.now):
            self.running.append((self.breaker.begin(self.now), self.now))

    @rule(which=st.integers(0, 5), ok=st.sampled_from((True, False, None)))
    def end(self, which: int, ok: bool | None) -> None:
        if self.running:
            before = self.breaker.state
            self.breaker.ended(self.running.pop(which % len(self.running))[0], ok, self.now)
            if self.breaker.state == "open" and before != "open":
                assert ok is False
                self.opened_at = self.now
            if before == "half_open" and self.breaker.state == "closed":
                assert ok is True

    @invariant()
    def what_is_open_lets_nothing_through_before_its_time(self) -> None:
        if self.breaker.state == "open":
            assert self.opened_at is not None
            assert self.breaker.allows(self.now) == (self.now >= self.opened_at + 10.0)

    @invariant()
    def it_always_lets_something_through_later(self) -> None:
        assert self.breaker.allows(self.now + 10.0)
        assert 0.0 <= self.breaker.remaining(self.now) <= 10.0 + 1e-9  # a sum of floats and their difference are rounded

    @invariant()
    def no_more_trials_than_allowed_are_counted(self) -> None:
        assert 0 <= self.breaker._trials <= 2


TestMachine = Machine.TestCase
