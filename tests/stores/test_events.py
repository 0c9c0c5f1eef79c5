"""The event log in memory: what it keeps, in which order, and that nothing of it grows without bound."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.session import Session
from mcpbridge.stores.events import OVERHEAD, MemoryEvents, MemoryLog

SESSION = Session("id", "principal", "2025-11-25")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def kept(log: MemoryLog, stream: str = "a", after: int = 0) -> list[int]:
    return [number for number, _event in await log.after(stream, after)]


async def test_a_stream_is_read_from_where_it_stopped_and_no_other_stream_with_it() -> None:
    log = MemoryEvents().open(SESSION)
    for number in range(1, 6):
        log.append("a", number, b"a%d" % number)
        log.append("b", number, b"b%d" % number)
    assert await log.after("a", 3) == [(4, b"a4"), (5, b"a5")]
    assert await kept(log, "b", 5) == []
    assert await kept(log, "c") == []


@pytest.mark.parametrize("limits", [{"max_events": 3}, {"max_bytes": 3 * (10 + OVERHEAD)}])
async def test_the_oldest_are_forgotten_for_the_newest(limits: dict[str, int]) -> None:
    log = MemoryEvents(**limits).open(SESSION)  # type: ignore[arg-type]
    for number in range(1, 10):
        log.append("a", number, b"x" * 10)
    assert await kept(log) == [7, 8, 9]


async def test_one_event_larger_than_the_log_is_kept_alone() -> None:
    log = MemoryEvents(max_bytes=1000).open(SESSION)
    log.append("a", 1, b"x")
    log.append("a", 2, b"x" * 5000)
    assert await kept(log) == [2]
    log.append("a", 3, b"x")
    assert await kept(log) == [3]


async def test_events_expire_by_age() -> None:
    clock = Clock()
    log = MemoryEvents(max_age=10.0, clock=clock).open(SESSION)
    log.append("a", 1, b"x")
    clock.now = 5.0
    log.append("a", 2, b"x")
    clock.now = 10.0
    assert await kept(log) == [2]
    clock.now = 15.0
    assert await kept(log) == []


async def test_all_logs_together_are_bounded_and_the_longest_silent_one_loses_first() -> None:
    events = MemoryEvents(max_total=4 * (10 + OVERHEAD))
    silent, busy = events.open(SESSION), events.open(SESSION)
    silent.append("a", 1, b"x" * 10)
    silent.append("a", 2, b"x" * 10)
    for number in range(1, 4):
        busy.append("a", number, b"x" * 10)
    assert (await kept(silent), await kept(busy)) == ([2], [1, 2, 3])
    busy.append("a", 4, b"x" * 10)
    assert (await kept(silent), await kept(busy)) == ([], [1, 2, 3, 4])
    assert events.size == 4 * (10 + OVERHEAD)


async def test_a_closed_log_keeps_nothing_and_takes_nothing_more() -> None:
    events = MemoryEvents()
    log = events.open(SESSION)
    log.append("a", 1, b"x")
    log.close()
    log.append("a", 2, b"x")
    assert await kept(log) == []
    assert events.size == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.booleans()), max_size=60))
def test_the_sum_is_always_what_is_kept(steps: list[tuple[int, int, bool]]) -> None:
    events = MemoryEvents(max_bytes=600, max_events=3, max_total=1200)
    logs = [events.open(SESSION) for _ in range(3)]
    for number, (which, size, closes) in enumerate(steps, 1):
        if closes:
            logs[which].close()
            logs[which] = events.open(SESSION)
        else:
            logs[which].append("a", number, b"x" * size)
        assert events.size == sum(log._size for log in logs) <= 1200
        assert all(log._size == sum(event.size for event in log._events) for log in logs)
