"""A direct server that is down and a gateway that may have it too: which of the two is heard."""

from __future__ import annotations

from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Reply
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import DISCOVERED, META, WAIT, Scripted, Talk, add, exchange

CALL = m.request(1, "tools/call", {"name": "a__t", "arguments": {}, "_meta": META})


async def called(answered: dict[str, Any] | None) -> m.Response | None:
    """``a__t`` while server a is down and the gateway answers its own ``a__t`` so, or is down too."""
    direct, gateway = Scripted(), Scripted()

    async def away(_era: object) -> None:
        raise BridgeError("connection_refused", "server 'a'", sent=False)

    async def says(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        if request.method == "tools/list":
            return m.result(request.id, {"resultType": "complete", "tools": []})
        assert m.loads(request.param("name") or b"") == "a__t" and answered is not None
        return m.error(request.id, answered["error"]) if "error" in answered else m.result(request.id, answered)

    direct.dialled, gateway.answer = away, says
    if answered is None:

        async def away_too(_era: object) -> None:
            raise BridgeError("websocket_refused", "server 'gateway'", sent=False)

        gateway.dialled = away_too
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT) as bridge:
        add(bridge, direct, "a")
        add(bridge, gateway, "gateway", prefix=False)
        x = exchange(CALL, None)  # type: ignore[arg-type]
        x.target = tuple(bridge.servers.values())
        return await bridge.endpoint()(x)


async def test_the_gateway_answers_for_a_server_that_is_down() -> None:
    response = await called({"resultType": "complete", "content": []})
    assert response is not None and response.error is None


async def test_that_the_gateway_does_not_know_the_name_is_no_news_the_cause_is() -> None:
    with pytest.raises(BridgeError, match="server 'a'") as failed:
        await called({"error": {"code": -32602, "message": "Unknown tool: a__t"}})
    assert failed.value.reason == "connection_refused"


async def test_of_two_that_are_down_the_first_one_is_named() -> None:
    with pytest.raises(BridgeError, match="server 'a'"):
        await called(None)
