"""Overload levels: when they rise, what lifts them at once, how they fall, and how much room is left for connections."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.overload import HOLD, Limits, Overload, Reading

MIB = 1 << 20
LIMITS = Limits(memory=100 * MIB, lag=0.25, files=1000, reserve=64, calls=500)


def levels(overload: Overload, reading: Reading, *times: float) -> list[int]:
    found = []
    for now in times:
        overload.look(reading, now)
        found.append(overload.level)
    return found


def test_a_late_loop_lifts_the_level_step_by_step_and_one_late_turn_refuses_nobody() -> None:
    overload = Overload(LIMITS)
    late = Reading(lag=0.3)
    assert levels(overload, late, 0.0, 1.0) == [1, 1]
    assert overload.cause == "the event loop is 300 ms late"
    assert levels(overload, Reading(lag=0.1), 1.25) == [0]
    assert overload.cause == ""
    assert levels(overload, late, 2.0, 2 + HOLD, 2 + 2 * HOLD, 100.0) == [1, 2, 3, 3]
    assert levels(overload, Reading(), 100.25, 100.5, 100.75, 101.0) == [2, 1, 0, 0]


def test_memory_far_beyond_its_limit_and_too_many_calls_refuse_new_work_at_once() -> None:
    assert levels(Overload(LIMITS), Reading(memory=101 * MIB), 0.0) == [1]
    assert levels(Overload(LIMITS), Reading(memory=106 * MIB), 0.0) == [2]
    assert levels(Overload(LIMITS), Reading(calls=501), 0.0) == [2]
    assert levels(Overload(LIMITS), Reading(files=937), 0.0) == [1]
    assert levels(Overload(LIMITS), Reading(100 * MIB, 0.25, 936, 500), 0.0) == [0]
    assert levels(Overload(Limits(lag=None)), Reading(10**12, 60.0, 10**6, 10**6), 0.0, 100.0) == [0, 0]


def test_the_reserve_of_files_is_never_given_to_connections() -> None:
    overload = Overload(LIMITS)
    assert (overload.room(0), overload.room(935), overload.room(936), overload.room(2000)) == (936, 1, 0, 0)
    assert Overload(Limits()).room(10**6) is None
    overload.level = 3
    assert overload.room(0) == 0


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1)), max_size=60))
def test_a_level_falls_one_step_at_a_time_and_has_a_cause_while_it_lasts(looks: list[tuple[float, float]]) -> None:
    overload, now = Overload(LIMITS), 0.0
    for pause, lag in looks:
        now += pause
        before = overload.level
        changed = overload.look(Reading(lag=lag), now)
        assert changed == (overload.level != before)
        assert 0 <= overload.level <= 3 and overload.level >= before - 1
        assert bool(overload.cause) == (overload.level > 0)
