"""Live sessions: found only by their principal, ended once, kept while something of them is in flight."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from mcpbridge.core.client_session import MAX_TASKS, AnyLink, ClientSession, ClientSessions
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import Back, client, never


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def sessions_with(*sessions: ClientSession) -> tuple[ClientSessions, Clock]:
    clock = Clock()
    live = ClientSessions(MemoryStore(idle_timeout=60, max_lifetime=600, clock=clock))
    for session in sessions:
        session.record.created = clock.now
        await live.add(session)
    return live, clock


async def test_a_session_is_found_by_its_own_principal_only_and_strangers_hear_the_same_as_of_no_session() -> None:
    session = client("p")
    live, _ = await sessions_with(session)
    assert await live.get("session", "p") is session
    said = set()
    for id, principal in (("session", "q"), ("other", "p")):
        with pytest.raises(BridgeError) as caught:
            await live.get(id, principal)
        said.add(str(caught.value))
    assert len(said) == 1


async def test_the_sweep_ends_what_nobody_used() -> None:
    back = Back(is_listening=False)
    session = client(back=back)
    live, clock = await sessions_with(session)
    clock.now += 61
    await live.sweep()
    assert session.closed
    assert back.is_closed
    assert len(live) == 0


async def test_the_sweep_keeps_a_session_whose_stream_is_open_until_its_lifetime_is_over() -> None:
    session = client(back=Back(is_listening=True))
    live, clock = await sessions_with(session)
    for _ in range(5):
        clock.now += 59
        await live.sweep()
    assert not session.closed
    clock.now += 600
    await live.sweep()
    assert session.closed


async def test_the_sweep_keeps_a_session_whose_call_is_in_flight() -> None:
    session = client(back=Back(is_listening=False))
    live, clock = await sessions_with(session)
    call = asyncio.ensure_future(never())
    session.calls[1] = (call, None)  # type: ignore[assignment]
    clock.now += 59
    await live.sweep()
    clock.now += 59
    await live.sweep()
    assert not session.closed
    session.calls.clear()
    call.cancel()
    clock.now += 61
    await live.sweep()
    assert session.closed


async def test_an_expired_session_is_unknown_before_any_sweep_and_its_live_half_ends() -> None:
    session = client(back=Back(is_listening=False))
    live, clock = await sessions_with(session)
    clock.now += 61
    with pytest.raises(BridgeError, match="initialize again"):
        await live.get("session", "p")
    assert session.closed


async def test_an_ended_session_closes_its_links_once_and_cancels_its_calls() -> None:
    session = client()
    live, _ = await sessions_with(session)
    closes: list[str] = []

    class Bad:
        async def close(self) -> None:
            closes.append("bad")
            raise RuntimeError

    class Good:
        async def close(self) -> None:
            closes.append("good")

    session.links = {"bad": Bad(), "good": Good()}  # type: ignore[dict-item]
    call = asyncio.ensure_future(never())
    x = type("X", (), {"cancel_reason": None})()
    session.calls[1] = (call, x)
    await live.end(session)
    await live.end(session)
    assert closes == ["bad", "good"]
    with pytest.raises(asyncio.CancelledError):
        await call
    assert x.cancel_reason == "the session has ended"


async def test_of_a_client_s_own_tasks_the_newest_are_remembered_with_who_asked_for_them() -> None:
    session = client()
    link, server = cast(AnyLink, object()), Server("a", [])
    session.links["a"] = link
    asked = m.request(1, "sampling/createMessage", {"task": {}})

    def news(id: object) -> m.Notification:
        return m.notification("notifications/tasks/status", {"taskId": id})

    for number in range(MAX_TASKS + 1):
        session.took_task(server, asked, m.result(1, {"task": {"taskId": str(number)}}))
    assert session.asker_of(news("0")) is None
    assert session.asker_of(news("1")) is session.asker_of(news(str(MAX_TASKS))) is link
    session.took_task(server, m.request(1, "sampling/createMessage"), m.result(1, {"task": {"taskId": "x"}}))
    for odd in ({}, {"task": 5}, {"task": {"taskId": 5}}, []):
        session.took_task(server, asked, m.result(1, odd))
    assert session.asker_of(news("x")) is session.asker_of(news(5)) is None
    del session.links["a"]
    assert session.asker_of(news("1")) is None
