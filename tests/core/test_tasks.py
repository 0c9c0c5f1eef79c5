"""Flag: an event that is cheap while nobody waits."""

from __future__ import annotations

import asyncio

from mcpbridge.core.tasks import Flag


async def test_whoever_waits_is_woken_once_it_is_set_also_when_it_is_cleared_at_once() -> None:
    flag = Flag()
    waiting = [asyncio.ensure_future(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    flag.set()
    flag.clear()
    done, _ = await asyncio.wait(waiting, timeout=5)
    assert len(done) == 3 and [task.cancelled() for task in waiting] == [False, True, False]
    assert not flag.is_set()


async def test_a_flag_that_is_set_is_not_waited_for_and_a_cancelled_wait_leaves_nothing() -> None:
    flag = Flag()
    flag.set()
    await flag.wait()
    flag.clear()
    waiting = asyncio.ensure_future(flag.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert flag._waiters == []
