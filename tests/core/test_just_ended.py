"""A call that certainly never left us, because its conversation had just ended, is tried once more on a fresh one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from msgspec import Raw

from mcpbridge.bridge import Bridge
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Exchange, Reply
from mcpbridge.core.link import Link
from mcpbridge.core.server import Server
from mcpbridge.era.clients import ModernLink
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import LOG_LEVEL
from tests.support.scripted import DISCOVERED, META, WAIT, Scripted, Talk, add, answer, client, exchange, initialize

CRASH = BridgeError("server_exited", "s: exit status 3")
CALL = m.request(7, "tools/call", {"name": "t", "arguments": {}})


class Ending(Scripted):
    """A server whose conversations end ``times`` times just before a tools/call is written to them."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 1
        self.is_modern = False
        self.ran = 0
        self.answer = self.ends

    async def ends(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "tools/call":
            if self.times:
                self.times -= 1
                talk.inbox.closed(CRASH)
                raise BridgeError("stream_closed", "closed", sent=False)
            self.ran += 1
        if self.is_modern and request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        return await answer(talk, request, reply)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), None, start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Ending:
    return Ending()


async def _linked(server: Server, session: ClientSession, link: Link | ModernLink) -> ClientSession:
    assert (await link.open(initialize())).error is None
    session.links[server.name] = link
    return session


async def legacy_on_legacy(server: Server, servers: Ending) -> Exchange:
    session = client()
    return exchange(CALL, server, await _linked(server, session, Link(session, server.backends[0])))


async def legacy_on_modern(server: Server, servers: Ending) -> Exchange:
    servers.is_modern = True
    session = client()
    return exchange(CALL, server, await _linked(server, session, ModernLink(session, server.backends[0])))


async def modern_on_modern(server: Server, servers: Ending) -> Exchange:
    servers.is_modern = True
    return exchange(CALL.with_meta({key: Raw(m.dumps(value)) for key, value in META.items()}), server)


async def modern_with_logs(server: Server, servers: Ending) -> Exchange:
    servers.is_modern = True
    meta = META | {LOG_LEVEL: "info"}
    return exchange(CALL.with_meta({key: Raw(m.dumps(value)) for key, value in meta.items()}), server)


async def modern_on_legacy(server: Server, servers: Ending) -> Exchange:
    return exchange(CALL.with_meta({key: Raw(m.dumps(value)) for key, value in META.items()}), server)


async def modern_that_may_be_asked(server: Server, servers: Ending) -> Exchange:
    meta = META | {"io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    return exchange(CALL.with_meta({key: Raw(m.dumps(value)) for key, value in meta.items()}), server)


WAYS = [
    legacy_on_legacy,
    legacy_on_modern,
    modern_on_modern,
    modern_with_logs,
    modern_on_legacy,
    modern_that_may_be_asked,
]


@pytest.mark.parametrize("way", WAYS)
async def test_it_runs_once_on_a_fresh_conversation_of_the_same_backend(
    bridge: Bridge, servers: Ending, way: Callable[[Server, Ending], Awaitable[Exchange]]
) -> None:
    server = add(bridge, servers)
    x = await way(server, servers)
    response = await asyncio.wait_for(bridge.one(x), WAIT)
    assert response is not None
    assert response.error is None
    assert servers.ran == 1
    assert servers.times == 0


@pytest.mark.parametrize("way", WAYS)
async def test_a_server_that_ends_again_and_again_is_an_error_of_the_call(
    bridge: Bridge, servers: Ending, way: Callable[[Server, Ending], Awaitable[Exchange]]
) -> None:
    servers.times = 1000
    server = add(bridge, servers)
    x = await way(server, servers)
    with pytest.raises(BridgeError, match="exit status 3"):
        await asyncio.wait_for(bridge.one(x), WAIT)
    assert servers.ran == 0
    assert servers.times == 998  # the first time and once more


async def test_a_conversation_that_the_pool_has_ended_is_not_spoken_on(bridge: Bridge, servers: Ending) -> None:
    servers.times = 0
    pool = add(bridge, servers).backends[0].pool
    talk = await pool.modern(WAIT)
    await talk.close()
    with pytest.raises(BridgeError, match="session lost") as raised:
        await talk.call(CALL, exchange(CALL, pool.backend.server).reply)
    assert not raised.value.sent
    assert servers.talks[0].methods == []
