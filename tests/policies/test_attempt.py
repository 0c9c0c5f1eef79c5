"""The deadline of a try, on the event loop: it ends the call, stands still during a question, moves on with progress."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpbridge.core.exchange import Caller, Deadline, Exchange, NoReply, Reply, View
from mcpbridge.errors import BridgeError
from mcpbridge.policies import attempt
from mcpbridge.policies.attempt import timeout
from mcpbridge.wire import message as m

PROGRESS = m.notification("notifications/progress", {"progressToken": 1, "progress": 1})
NEVER = 3600.0


class Client:
    can_ask = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer: asyncio.Future[m.Response] = asyncio.get_running_loop().create_future()

    def notify(self, notification: m.Notification) -> None:
        return None

    async def ask(self, request: m.Request, asker: Reply | None = None) -> m.Response:
        self.asked.set()
        return await self.answer


def exchange(deadline: Deadline, reply: Any = None, method: str = "tools/call") -> Exchange:
    request = m.request(1, method)
    return Exchange(request, View(method), Caller("stdio", "modern"), reply or NoReply(), deadline)


def now() -> float:
    return asyncio.get_running_loop().time()


async def hang(x: Exchange) -> m.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_call_that_is_never_answered_ends_as_a_timeout_that_names_its_method() -> None:
    with pytest.raises(BridgeError) as caught:
        await timeout()(exchange(Deadline(0.01, now())), hang)
    assert caught.value.reason == "timeout"
    assert "tools/call" in str(caught.value)


async def test_a_listen_has_no_deadline() -> None:
    x = exchange(Deadline(0.0, now() - 1), method="subscriptions/listen")

    async def handler(x: Exchange) -> m.Response:
        await asyncio.sleep(0)
        return m.result(1, {})

    assert await timeout()(x, handler) == m.result(1, {})


async def test_the_clock_stands_still_while_the_client_is_asked() -> None:
    client, deadline = Client(), Deadline(NEVER, now())
    x = exchange(deadline, client)

    async def handler(x: Exchange) -> m.Response:
        return await x.reply.ask(m.request(2, "elicitation/create"))

    call = asyncio.ensure_future(timeout()(x, handler))
    await asyncio.wait_for(client.asked.wait(), 5)
    assert deadline.paused
    client.answer.set_result(m.result(2, {}))
    assert await asyncio.wait_for(call, 5) == m.result(2, {})
    assert not deadline.paused


async def test_a_question_that_the_client_never_answers_ends_and_is_no_fault_of_the_server() -> None:
    deadline = Deadline(NEVER, now())

    async def handler(x: Exchange) -> m.Response:
        return await x.reply.ask(m.request(2, "elicitation/create"))

    with pytest.raises(BridgeError) as caught:
        await asyncio.wait_for(timeout(0.01)(exchange(deadline, Client()), handler), 5)
    assert (caught.value.reason, caught.value.fault.blames) == ("unanswered", "client")
    assert not deadline.paused


async def test_progress_that_comes_while_the_time_is_just_over_is_no_error_of_whoever_brings_it() -> None:
    x = exchange(Deadline(0.01, now()), Client())
    over = asyncio.Event()

    async def handler(x: Exchange) -> m.Response:
        try:
            await asyncio.Event().wait()
        finally:
            x.reply.notify(PROGRESS)  # the scope is expiring: it cannot be moved any more
            over.set()
        raise AssertionError

    with pytest.raises(BridgeError, match="timeout"):
        await timeout()(x, handler)
    assert over.is_set()


async def test_parts_of_one_exchange_share_its_deadline_and_a_finished_part_does_not_deafen_the_others() -> None:
    deadline = Deadline(NEVER, now())
    first, second = exchange(deadline, Client()), exchange(deadline, Client())
    done, go = asyncio.Event(), asyncio.Event()
    scopes: list[float | None] = []

    async def short(x: Exchange) -> m.Response:
        return m.result(1, {})

    async def long(x: Exchange) -> m.Response:
        done.set()
        await go.wait()
        deadline.pause(now())
        scopes.append(None)
        deadline._ends = 0.0  # were the scope still armed by it, it would end now
        deadline.resume(0.0)
        await asyncio.Event().wait()
        raise AssertionError

    running = asyncio.ensure_future(timeout()(second, long))
    await asyncio.wait_for(done.wait(), 5)
    await timeout()(first, short)
    go.set()
    with pytest.raises(BridgeError, match="timeout"):  # it heard of the change although the other part has ended
        await asyncio.wait_for(running, 5)
    assert scopes == [None]


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines more than 0.04 s away are far, and looked at every 0.02 s."""
    monkeypatch.setattr(attempt, "TICK", 0.02)
    monkeypatch.setattr(attempt, "NEAR", 0.04)


@pytest.mark.usefixtures("quick_looks")
async def test_deadlines_that_were_far_away_are_over_on_time_each_at_its_own() -> None:
    policy = timeout()
    began = now()
    budgets = (0.2, 0.1, 0.15)

    async def fail(budget: float) -> float:
        with pytest.raises(BridgeError):
            await policy(exchange(Deadline(budget, began)), hang)
        return now() - began

    ends = await asyncio.wait_for(asyncio.gather(*map(fail, budgets)), 5)
    assert sorted(ends, key=dict(zip(ends, budgets, strict=True)).__getitem__) == sorted(ends)
    for budget, end in zip(budgets, ends, strict=True):
        assert budget - 0.005 <= end < budget + 1


@pytest.mark.usefixtures("quick_looks")
async def test_a_far_deadline_that_was_paused_or_moved_is_over_when_it_says() -> None:
    deadline = Deadline(0.1, now())
    call = asyncio.ensure_future(timeout()(exchange(deadline), hang))
    await asyncio.sleep(0)
    deadline.pause(now())
    done, _ = await asyncio.wait([call], timeout=0.2)
    assert not done  # it stood still
    deadline.resume(now())
    deadline.extend(now())
    left = deadline.remaining(now())
    began = now()
    with pytest.raises(BridgeError):
        await asyncio.wait_for(call, 5)
    assert left - 0.005 <= now() - began < left + 1


@pytest.mark.usefixtures("quick_looks")
async def test_calls_that_are_over_leave_no_timer_running(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    looks = 0
    policy = timeout()

    async def quick(x: Exchange) -> m.Response:
        return m.result(1, {})

    def count(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return later(*args)

    later = loop.call_later
    monkeypatch.setattr(loop, "call_later", count)
    for _ in range(100):
        await policy(exchange(Deadline(NEVER, now())), quick)
    assert looks == 1  # all of them share one look
    idle = loop.create_future()
    later(0.1, idle.set_result, None)
    await idle
    assert looks == 1  # and it was the last
