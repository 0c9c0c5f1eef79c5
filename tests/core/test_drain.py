"""A backend that drains: no new calls, those in flight end, sessions go on elsewhere, and it can be taken back."""

from __future__ import annotations

import asyncio

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.drain import drain, finish, undrain
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Backend, Server
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import DISCOVERED, WAIT, Back, Scripted, Talk, answer, client, exchange, initialize, never, until

CALL = m.request(7, "tools/call", {"name": "t", "arguments": {}})


def bridge_of(*replicas: Scripted, eras: bool = False) -> tuple[Bridge, Server]:
    bridge = Bridge("gateway", MemoryStore(), Crossings() if eras else None, start_timeout=WAIT)
    return bridge, bridge.add("s", [Way("http", f"r{number}", one.dial) for number, one in enumerate(replicas)])


def gone(bridge: Bridge, backend: Backend) -> None:
    drain(backend, bridge.sessions, bridge.spawn)


async def modern(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
    return m.result(request.id, DISCOVERED if request.method == "server/discover" else {"by": request.method})


async def test_one_that_drains_gets_no_new_calls_and_takes_them_again_afterwards() -> None:
    first, second = Scripted(), Scripted()
    first.answer = second.answer = modern
    bridge, server = bridge_of(first, second)
    async with bridge:
        gone(bridge, server.backends[0])
        for _ in range(20):
            await bridge.one(exchange(CALL, server))
        assert not first.talks
        undrain(server.backends[0])
        gone(bridge, server.backends[1])
        await bridge.one(exchange(CALL, server))
        assert first.talks


async def test_the_only_one_refuses_new_calls_with_the_cause() -> None:
    servers = Scripted()
    bridge, server = bridge_of(servers)
    async with bridge:
        gone(bridge, server.backends[0])
        with pytest.raises(BridgeError, match="it drains") as caught:
            await bridge.one(exchange(CALL, server))
        assert caught.value.reason == "no_backend" and not caught.value.sent


async def test_a_session_refuses_too_where_there_is_no_other() -> None:
    bridge, server = bridge_of(Scripted())
    async with bridge:
        session = client()
        await bridge.sessions.add(session)
        await bridge.one(exchange(initialize(), server, session))
        gone(bridge, server.backends[0])
        with pytest.raises(BridgeError, match="it drains"):
            await bridge.one(exchange(CALL, server, session))
        undrain(server.backends[0])
        await bridge.one(exchange(CALL, server, session))


@pytest.mark.parametrize("capabilities", ["{}", '{"roots":{}}'])
async def test_a_session_goes_on_at_another_one_and_its_call_in_flight_ends_where_it_is(capabilities: str) -> None:
    first, second, held = Scripted(), Scripted(), asyncio.Event()

    async def slow(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "tools/call":
            await held.wait()
        return await answer(talk, request, reply)

    first.answer = second.answer = slow
    bridge, server = bridge_of(first, second)
    async with bridge:
        back = Back()
        session = client(capabilities=capabilities, back=back)
        await bridge.sessions.add(session)
        await bridge.one(exchange(initialize(), server, session))
        home = session.links["s"].backend
        assert home is not None
        was, now = (first, second) if home is server.backends[0] else (second, first)
        call = asyncio.ensure_future(bridge.one(exchange(CALL, server, session)))
        await until(lambda: "tools/call" in was.talks[0].methods)
        gone(bridge, home)
        await until(lambda: session.links["s"].backend is not home)
        await until(lambda: "notifications/tools/list_changed" in [n.method for n in back.heard])
        assert was.talks[0].closes == 0
        finishing = asyncio.ensure_future(finish(home, WAIT))
        held.set()
        response = await asyncio.wait_for(call, WAIT)
        assert response is not None and response.error is None
        await asyncio.wait_for(finishing, WAIT)
        assert was.talks[0].closes
        await bridge.one(exchange(CALL, server, session))
        assert now.talks[0].methods.count("tools/call") == 1


async def test_a_call_of_a_session_that_has_not_moved_yet_takes_it_along() -> None:
    first, second = Scripted(), Scripted()
    bridge, server = bridge_of(first, second)
    async with bridge:
        session = client()  # not among the bridge's sessions: nobody tells its link
        await bridge.one(exchange(initialize(), server, session))
        home = session.links["s"].backend
        assert home is not None
        gone(bridge, home)
        response = await bridge.one(exchange(CALL, server, session))
        assert response is not None and response.error is None
        assert session.links["s"].backend is not home


async def test_a_legacy_client_of_modern_servers_goes_on_at_another_one() -> None:
    first, second = Scripted(), Scripted()

    async def newer(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "subscriptions/listen":
            reply.notify(
                m.notification("notifications/subscriptions/acknowledged", {"notifications": {"toolsListChanged": True}})
            )
            return await never()
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED | {"capabilities": {"tools": {"listChanged": True}}})
        if request.method == "initialize":
            return m.error(request.id, {"code": -32022, "message": "no", "data": {"supported": ["2026-07-28"]}})
        return m.result(request.id, {"resultType": "complete", "content": []})

    first.answer = second.answer = newer
    bridge, server = bridge_of(first, second, eras=True)
    async with bridge:
        back = Back()
        session = client(back=back)
        await bridge.sessions.add(session)
        response = await bridge.one(exchange(initialize(), server, session))
        assert response is not None and response.error is None
        home = session.links["s"].backend
        assert home is not None
        gone(bridge, home)
        await until(lambda: session.links["s"].backend is not home)
        await until(lambda: "notifications/tools/list_changed" in [n.method for n in back.heard])
        await until(lambda: home.active == 0)
        await bridge.one(exchange(CALL, server, session))


async def test_what_does_not_end_in_time_is_cut_off() -> None:
    servers = Scripted()

    async def hangs(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return await never() if request.method == "tools/call" else await modern(talk, request, reply)

    servers.answer = hangs
    bridge, server = bridge_of(servers)
    async with bridge:
        call = asyncio.ensure_future(bridge.one(exchange(CALL, server)))
        await until(lambda: server.backends[0].active)
        gone(bridge, server.backends[0])
        await asyncio.wait_for(finish(server.backends[0], 0.0), WAIT)
        assert servers.talks[0].closes
        call.cancel()
