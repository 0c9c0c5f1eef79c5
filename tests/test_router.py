"""The router's prompt answer to `initialize`: from what is known, or after a bounded wait; the truth follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge import greeting
from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Reply
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.greeting import prompt_initialize
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import (
    HELLO,
    INITIALIZED,
    WAIT,
    Back,
    Scripted,
    Talk,
    add,
    answer,
    client,
    exchange,
    initialize,
    until,
)


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT) as bridge:
        yield bridge


class Slow(Scripted):
    """A server whose handshake waits until the test lets it go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.answer = self._answer
        self.hello: Any = HELLO
        self.lacks: set[str] = set()

    async def _answer(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "initialize":
            await self.go.wait()
            if isinstance(self.hello, BridgeError):
                raise self.hello
            return m.result(request.id, self.hello)
        if request.method in self.lacks:
            return m.error(request.id, {"code": -32601, "message": "Method not found"})
        return await answer(talk, request, reply)


async def ask(bridge: Bridge, servers: Scripted, known: Any, wait: float) -> tuple[m.Response, Any]:
    server, back = add(bridge, servers), Back()
    if known is not None:
        server.hello["legacy"] = json.dumps(known, separators=(",", ":")).encode()
    session = client(back=back)
    response = await prompt_initialize(server, wait)(exchange(initialize(7), server, session), bridge.one)
    assert response is not None
    assert response.id == 7
    session.initialized = INITIALIZED
    return response, session


async def test_a_server_that_is_fast_answers_for_itself(bridge: Bridge) -> None:
    response, session = await ask(bridge, Scripted(), None, WAIT)
    assert m.loads(response.result or b"") == HELLO
    assert session.links


async def test_a_known_server_is_not_waited_for_and_nothing_is_told_when_it_says_the_same(bridge: Bridge) -> None:
    servers = Slow()
    known = json.loads(m.dumps(HELLO))
    response, session = await ask(bridge, servers, known, WAIT)
    assert m.loads(response.result or b"") == known
    servers.go.set()
    await until(lambda: session.links)
    await asyncio.sleep(0)
    assert session.back.heard == []


async def test_a_known_server_that_says_something_else_now_makes_its_client_read_again(bridge: Bridge) -> None:
    servers = Slow()
    response, session = await ask(bridge, servers, HELLO | {"capabilities": {}}, WAIT)
    assert m.loads(response.result or b"")["capabilities"] == {}
    servers.go.set()
    await until(lambda: session.back.heard)
    assert [n.method for n in session.back.heard] == ["notifications/tools/list_changed"]


async def test_what_was_known_in_another_version_or_is_damaged_is_not_told(bridge: Bridge) -> None:
    servers = Slow()
    response, _session = await ask(bridge, servers, HELLO | {"protocolVersion": "2024-11-05"}, 0.001)
    assert "still starting" in m.loads(response.result or b"")["instructions"]
    servers.go.set()


async def test_an_unknown_server_that_fails_later_is_named_with_its_cause_and_tried_again_by_the_next_call(
    bridge: Bridge,
) -> None:
    servers = Slow()
    servers.hello = BridgeError("server_exited", "s: exit status 9")
    _response, session = await ask(bridge, servers, None, 0.001)
    servers.go.set()
    await until(lambda: session.back.heard)
    assert b"exit status 9" in session.back.heard[0].encode()
    servers.hello = HELLO
    server = bridge.servers["s"]
    server.backends[0].pool._not_before = 0.0
    call = await bridge.one(exchange(m.request(1, "tools/list"), server, session))
    assert call is not None
    assert call.error is None


@pytest.mark.parametrize(("method", "nothing"), greeting.NOTHING.items())
async def test_a_client_may_use_what_it_was_promised_of_a_server_that_turns_out_not_to_have_it(
    bridge: Bridge, method: str, nothing: dict[str, Any]
) -> None:
    """The Inspector says logging/setLevel to whoever declares logging, and gives up on an error."""
    servers = Slow()
    servers.hello = HELLO | {"capabilities": {}}
    servers.lacks = {method}
    policy, server = prompt_initialize(add(bridge, servers), 0.001), bridge.servers["s"]
    session = client(back=Back())
    hello = await policy(exchange(initialize(7), server, session), bridge.one)
    assert hello is not None and "still starting" in m.loads(hello.result or b"")["instructions"]
    session.initialized = INITIALIZED
    servers.go.set()
    answer = await policy(exchange(m.request(8, method), server, session), bridge.one)
    assert answer is not None and (answer.id, m.loads(answer.result or b"null")) == (8, nothing)
    assert any(method in talk.methods for talk in servers.talks)
    servers.lacks = {"prompts/get"}
    refused = await policy(exchange(m.request(9, "prompts/get", {"name": "none"}), server, session), bridge.one)
    assert refused is not None and refused.error is not None


async def test_what_a_server_that_answered_for_itself_does_not_know_stays_an_error(bridge: Bridge) -> None:
    servers = Slow()
    servers.go.set()
    servers.lacks = {"prompts/list"}
    policy, server = prompt_initialize(add(bridge, servers), WAIT), bridge.servers["s"]
    session = client(back=Back())
    await policy(exchange(initialize(7), server, session), bridge.one)
    session.initialized = INITIALIZED
    answer = await policy(exchange(m.request(8, "prompts/list"), server, session), bridge.one)
    assert answer is not None and answer.error is not None and b"-32601" in bytes(answer.error)


async def test_a_client_that_left_during_the_start_leaves_no_server(bridge: Bridge) -> None:
    servers = Slow()
    _response, session = await ask(bridge, servers, None, 0.001)
    await session.close()
    servers.go.set()
    await until(lambda: not session.opening or (servers.talks and servers.talks[0].closes))
    assert session.links == {}
