"""A legacy session whose backend died goes on at another one of its server, which is told what the client said so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.breaker import Breaker, Rules
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Exchange, Reply
from mcpbridge.core.link import Link
from mcpbridge.core.server import Server
from mcpbridge.era.clients import ModernLink
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import (
    DISCOVERED,
    HELLO,
    INITIALIZED,
    WAIT,
    Back,
    Scripted,
    Talk,
    answer,
    client,
    exchange,
    initialize,
    never,
    until,
)

CRASH = BridgeError("server_exited", "s: exit status 3")
GONE = BridgeError("connection_refused", sent=False)
LEVEL = m.request(1, "logging/setLevel", {"level": "debug"})
SUBSCRIBE = m.request(2, "resources/subscribe", {"uri": "a:1"})
CALL = m.request(7, "tools/call", {"name": "t", "arguments": {}})


class Replica(Scripted):
    """One backend of several. ``is_gone``: it cannot be reached, and calls of its open sessions find that out."""

    def __init__(self) -> None:
        super().__init__()
        self.is_gone = False
        self.hello = HELLO
        self.answer = self.says
        self.dialled = self.dials

    async def dials(self, _era: object) -> None:
        if self.is_gone:
            raise GONE

    async def says(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if self.is_gone:
            raise BridgeError("connection_refused", sent=False)
        if request.method == "initialize":
            return m.result(request.id, self.hello)
        return await answer(talk, request, reply)


class Modern(Replica):
    """A modern-only one."""

    async def says(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if self.is_gone:
            raise BridgeError("connection_refused", sent=False)
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        if request.method == "initialize":
            return m.error(request.id, {"code": -32601, "message": "Method not found"})
        return m.result(request.id, {"resultType": "complete", "content": []})


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), None, start_timeout=WAIT) as bridge:
        yield bridge


def two(bridge: Bridge, one: Scripted, other: Scripted, protocol: str = "stdio") -> Server:
    is_child = protocol == "stdio"
    return bridge.add(
        "s", [Way(protocol, "one", one.dial, is_child=is_child), Way(protocol, "other", other.dial, is_child=is_child)]
    )


async def begun(server: Server, *requests: m.Request) -> ClientSession:
    """A session at the first backend, as it is after these calls."""
    session = client()
    link = session.links["s"] = Link(session, server.backends[0])
    assert (await link.open(initialize())).error is None
    session.initialized = INITIALIZED
    await link.notify(INITIALIZED)
    for request in requests:
        await link.call(exchange(request, server, session))
    return session


async def run(bridge: Bridge, x: Exchange) -> m.Response:
    response = await asyncio.wait_for(bridge.one(x), WAIT)
    assert response is not None
    return response


async def test_a_child_that_dies_for_good_is_followed_by_another_with_handshake_level_and_subscriptions(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server, LEVEL, SUBSCRIBE)
    one.is_gone = True
    one.talks[-1].dies(CRASH)
    back = session.back
    assert isinstance(back, Back)
    await until(lambda: back.heard)
    assert [n.method for n in back.heard] == ["notifications/tools/list_changed"]
    assert other.talks[0].methods == ["initialize", "logging/setLevel", "resources/subscribe"]
    assert bytes(other.talks[0].requests[0].params["clientInfo"]) == b'{"name":"c","version":"1"}'  # type: ignore[index]
    assert other.talks[0].notifications == [INITIALIZED]
    assert (await run(bridge, exchange(CALL, server, session))).error is None
    assert session.links["s"].backend is server.backends[1]


async def test_a_child_that_comes_back_keeps_its_sessions(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server, SUBSCRIBE)
    one.talks[-1].dies(CRASH)
    assert (await run(bridge, exchange(CALL, server, session))).error is None
    assert not other.talks
    assert one.talks[-1].methods == ["initialize", "resources/subscribe", "tools/call"]


async def test_a_session_over_http_moves_when_a_call_finds_its_backend_gone(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other, "http")
    session = await begun(server, LEVEL)
    one.is_gone = True
    x = exchange(CALL, server, session)
    assert (await run(bridge, x)).error is None
    assert x.backend is server.backends[1]
    assert server.backends[0].state == "down"
    assert other.talks[0].methods == ["initialize", "logging/setLevel", "tools/call"]


async def test_a_call_in_flight_on_the_dead_backend_ends_in_a_typed_error_and_runs_once(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server)
    one.answer = lambda *_: never()
    call = asyncio.ensure_future(bridge.one(exchange(CALL, server, session)))
    await until(lambda: "tools/call" in one.talks[-1].methods)
    one.is_gone = True
    one.talks[-1].dies(CRASH)
    with pytest.raises(BridgeError, match="exit status 3"):
        await asyncio.wait_for(call, WAIT)
    assert not any("tools/call" in talk.methods for talk in other.talks)


async def test_a_backend_that_takes_the_client_in_another_version_only_is_not_the_same(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    other.hello = {**HELLO, "protocolVersion": "2025-06-18"}
    server = two(bridge, one, other, "http")
    session = await begun(server)
    one.is_gone = True
    with pytest.raises(BridgeError, match="connection refused"):
        await run(bridge, exchange(CALL, server, session))
    assert session.links["s"].backend is server.backends[0]
    assert not any("tools/call" in talk.methods for talk in other.talks)


async def test_a_server_with_one_backend_keeps_the_session_and_finds_it_again(bridge: Bridge) -> None:
    one = Replica()
    server = bridge.add("s", [Way("http", "one", one.dial)])
    session = await begun(server)
    one.is_gone = True
    with pytest.raises(BridgeError, match="connection refused"):
        await run(bridge, exchange(CALL, server, session))
    one.is_gone = False
    assert (await run(bridge, exchange(CALL, server, session))).error is None
    assert len(one.talks) == 1


async def test_a_session_with_modern_servers_moves_likewise(bridge: Bridge) -> None:
    one, other = Modern(), Modern()
    server = two(bridge, one, other, "http")
    session = client()
    link = session.links["s"] = ModernLink(session, server.backends[0])
    assert (await link.open(initialize())).error is None
    one.is_gone = True
    for _ in range(20):
        x = exchange(CALL, server, session)
        assert (await run(bridge, x)).error is None
        assert x.backend is server.backends[1]
    assert link.backend is server.backends[1]


async def test_a_call_that_may_run_twice_is_tried_beside_a_session_whose_backend_fails_it(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server)

    async def nonsense(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        raise BridgeError("bad_answer")

    one.answer = nonsense
    with pytest.raises(BridgeError, match="nonsense"):
        await run(bridge, exchange(CALL, server, session))
    assert not other.talks
    x = exchange(m.request(8, "prompts/get", {"name": "p"}), server, session)
    assert (await run(bridge, x)).error is None
    assert (x.attempts, x.backend) == (2, server.backends[1])
    assert other.talks[0].methods == ["initialize", "prompts/get"]
    assert session.links["s"].backend is server.backends[0]


async def test_what_a_conversation_remembers_is_never_tried_beside_it(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server)

    async def nonsense(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        raise BridgeError("bad_answer")

    one.answer = nonsense
    with pytest.raises(BridgeError, match="nonsense"):
        await run(bridge, exchange(m.request(8, "tasks/get", {"taskId": "t"}), server, session))
    assert not other.talks


async def test_a_session_leaves_a_backend_that_a_breaker_keeps_calls_from(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server, LEVEL)
    breaker = server.backends[0].breaker = Breaker(Rules(failures=1))
    breaker.ended(breaker.begin(time.monotonic()), ok=False, now=time.monotonic())
    x = exchange(CALL, server, session)
    assert (await run(bridge, x)).error is None
    assert x.attempts == 1
    assert other.talks[0].methods == ["initialize", "logging/setLevel", "tools/call"]
    assert session.links["s"].backend is x.backend is server.backends[1]
    server.backends[1].breaker = breaker  # breakers never take the last: one of them is tried
    assert (await run(bridge, exchange(CALL, server, session))).error is None
    assert breaker.state == "half_open"


async def test_a_session_s_call_that_is_a_breaker_s_trial_is_made_where_the_session_is(bridge: Bridge) -> None:
    one, other = Replica(), Replica()
    server = two(bridge, one, other)
    session = await begun(server)
    rules = Rules(failures=1, successes=1, open_for=0.0)  # the trials' time has come at once
    breaker = server.backends[0].breaker = Breaker(rules)
    breaker.ended(breaker.begin(time.monotonic()), ok=False, now=time.monotonic())
    assert breaker.state == "open"
    rules_of_one = breaker.rules = rules._replace(open_for=60.0)
    assert rules_of_one.trials == 1
    x = exchange(CALL, server, session)
    assert (await run(bridge, x)).error is None
    assert (x.attempts, x.backend, breaker.state) == (1, server.backends[0], "closed")
    assert not other.talks


async def test_a_session_that_moves_under_a_call_tells_nothing_against_the_backend_of_the_call(bridge: Bridge) -> None:
    one, other, third = Replica(), Replica(), Replica()
    server = bridge.add(
        "s", [Way("stdio", name, replica.dial, is_child=True) for name, replica in zip("abc", (one, other, third), strict=True)]
    )
    session = await begun(server)
    server.backends[0].is_draining = True
    x = exchange(CALL, server, session)
    x.backend = server.backends[2]
    link = session.links["s"]
    assert isinstance(link, Link)
    third.is_gone = True  # so that it moves to the second one
    with pytest.raises(BridgeError, match="goes on at another backend") as caught:
        await link.call(x)
    assert (caught.value.fault.blames, caught.value.fault.code, caught.value.sent) == ("bridge", 1023, False)


async def test_calls_of_a_session_with_modern_servers_go_where_balancing_sends_them(bridge: Bridge) -> None:
    one, other = Modern(), Modern()
    server = two(bridge, one, other, "http")
    session = client()
    link = session.links["s"] = ModernLink(session, server.backends[0])
    assert (await link.open(initialize())).error is None
    for _ in range(40):
        assert (await run(bridge, exchange(CALL, server, session))).error is None
    assert all("tools/call" in [method for talk in each.talks for method in talk.methods] for each in (one, other))
    assert link.backend is server.backends[0]
