"""The deadline against a small model: time that passes only while no question is open, a budget that progress restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.exchange import Deadline

BUDGET = 10.0
LIMIT = 3.0
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.integers(0, 15)),
        st.tuples(st.sampled_from(["pause", "resume", "extend"]), st.just(0)),
    ),
    max_size=30,
)


@given(STEPS)
def test_a_deadline_counts_only_unpaused_time_and_progress_never_adds_more_than_the_limit(steps: list[tuple[str, int]]) -> None:
    now, deadline = 0.0, Deadline(BUDGET, 0.0, LIMIT)
    pauses, spent, ends, hard = 0, 0.0, BUDGET, BUDGET * LIMIT  # ``spent``: seconds that counted
    for step, seconds in steps:
        if step == "wait":
            now += seconds
            spent += 0 if pauses else seconds
        elif step == "pause":
            pauses += 1
            deadline.pause(now)
        elif step == "resume" and pauses:
            pauses -= 1
            deadline.resume(now)
        elif step == "extend":
            ends = max(ends, min(spent + BUDGET, hard))
            deadline.extend(now)
        assert deadline.paused == (pauses > 0)
        assert deadline.remaining(now) == max(0.0, ends - spent)
        assert deadline.remaining(now) <= BUDGET


def test_everyone_who_watches_a_deadline_hears_of_its_changes_until_he_stops() -> None:
    heard: list[str] = []
    deadline = Deadline(1.0, 0.0)

    def first() -> None:
        heard.append("first")

    def second() -> None:
        heard.append("second")

    deadline.watch(first)
    deadline.watch(second)
    deadline.extend(0.5)
    deadline.unwatch(first)
    deadline.pause(0.6)
    assert heard == ["first", "second", "second"]
