"""The engine as a whole: what it starts ends with it, whoever still talks; servers that come back are linked."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.tasks import share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import WAIT, Back, Scripted, add, answer, client, exchange, initialize, never, until


def new() -> Bridge:
    return Bridge("gateway", MemoryStore(), None, start_timeout=WAIT)


async def test_what_is_started_while_the_bridge_ends_does_not_hold_it_up() -> None:
    begun = asyncio.Event()
    late: list[asyncio.Task[None]] = []
    async with new() as bridge:

        async def stubborn() -> None:
            begun.set()
            try:
                await never()
            finally:
                late.append(bridge.spawn(never()))  # as a cancelled call that notifies its server, or a client that goes on

        bridge.spawn(stubborn())
        await asyncio.wait_for(begun.wait(), WAIT)
    assert late[0].cancelled()
    gc.collect()  # a coroutine that was never awaited would be told now


async def test_whoever_waits_for_work_that_never_began_is_told_that_the_bridge_ends() -> None:
    async with new() as bridge:
        future = share(bridge.spawn, never())
    with pytest.raises(BridgeError, match="shutting down"):
        await wait_shared(future, WAIT, "x")


async def test_a_fault_in_background_work_ends_nothing_else() -> None:
    async def fault() -> None:
        raise ZeroDivisionError

    async with new() as bridge:
        await bridge.spawn(fault())
        servers = Scripted()
        server, session = add(bridge, servers), client()
        assert await bridge.one(exchange(initialize(), server, session)) is not None


async def test_the_end_closes_every_session_and_conversation() -> None:
    servers, back = Scripted(), Back()
    async with new() as bridge:
        server, session = add(bridge, servers), client(capabilities='{"roots":{}}', back=back)
        await bridge.sessions.add(session)
        await bridge.one(exchange(initialize(), server, session))
    assert back.is_closed
    assert [talk.closes for talk in servers.talks] == [1]


async def test_a_request_of_a_session_that_is_over_starts_no_server() -> None:
    servers = Scripted()
    async with new() as bridge:
        server, session = add(bridge, servers), client()
        await session.close()
        with pytest.raises(BridgeError, match="session has ended"):
            await bridge.one(exchange(m.request(1, "tools/list"), server, session))
        assert servers.talks == []


async def test_a_server_that_a_session_missed_is_linked_when_it_is_back() -> None:
    servers, back = Scripted(), Back()

    async def down(_era: Any) -> None:
        raise BridgeError("connection_refused", "s", sent=False)

    dialled, servers.dialled = servers.dialled, down
    async with new() as bridge:
        server = bridge.add("s", [Way("http", "s", servers.dial)])
        session = client(back=back)
        await bridge.sessions.add(session)
        with pytest.raises(BridgeError, match="connection refused"):
            await bridge.one(exchange(initialize(), server, session))
        session.missing["s"] = "connection refused"
        assert server.backends[0].state == "down"
        servers.dialled = dialled
        server.backends[0].succeeded()  # as when the next look finds it up
        await until(lambda: session.links and not session.missing)
        assert "notifications/tools/list_changed" in [n.method for n in back.heard]


async def test_an_outage_ends_what_was_known_of_the_era() -> None:
    servers = Scripted()
    async with new() as bridge:
        backend = add(bridge, servers).backends[0]
        backend.speaks.update({"modern": True, "legacy": False})
        backend.failed(BridgeError("timeout", "one call was slow"))
        assert backend.speaks  # an error of one call is no outage
        backend.failed(BridgeError("server_exited", "s: exit status 1"))
        assert not backend.speaks


async def test_callers_of_one_principal_share_and_others_never_do_however_they_mix() -> None:
    servers = Scripted()
    async with new() as bridge:
        server = add(bridge, servers)

        async def talk(principal: str) -> m.Response | None:
            session = client(principal)
            await bridge.one(exchange(initialize(), server, session))
            return await bridge.one(exchange(m.request(1, f"by/{principal}"), server, session))

        servers.answer = answer
        responses = await asyncio.gather(*(talk(p) for p in "abcabcab"))
    assert [m.loads(r.result or b"")["by"][-1] for r in responses if r is not None] == list("abcabcab")
    assert sorted({method for t in servers.talks for method in t.methods[1:]}) == ["by/a", "by/b", "by/c"]
    assert all(len(set(t.methods[1:])) == 1 for t in servers.talks)
    assert len(servers.talks) == 3
