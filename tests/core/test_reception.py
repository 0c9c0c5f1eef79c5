"""Clients of duplex frontends from their arrival to their end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge.core.duplex import Arrival
from mcpbridge.errors import BridgeError
from tests.golden.player import Pipe, new_bridge, receive
from tests.support.house import PARAMS, House
from tests.support.scripted import HELLO, META, never, until
from tests.support.scripted import answer as content_answer


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with new_bridge(None) as bridge:
        yield House(bridge)


async def say(pipe: Pipe, **message: Any) -> None:
    await pipe.started.wait()
    pipe.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())


async def test_a_client_is_served_and_counted_until_it_is_gone_and_its_session_ends_with_it(house: House) -> None:
    pipe, _headers, task = house.arrive()
    await say(pipe, id=1, method="initialize", params=PARAMS)
    assert (await receive(pipe))["result"] == HELLO
    assert (len(house.bridge.sessions), house.reception.connections("websocket")) == (1, 1)
    assert house.reception.connections("sse") == 0
    pipe.end(ConnectionResetError("gone"))
    await asyncio.wait([task])
    assert pipe.closed
    assert (len(house.bridge.sessions), house.reception.connections("websocket")) == (0, 0)


async def test_a_client_that_is_gone_cancels_what_it_asked(house: House) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs(talk: Any, request: Any, reply: Any) -> Any:
        if request.method != "tools/call":
            return await content_answer(talk, request, reply)
        began.set()
        try:
            await never()
        finally:
            ended.set()

    house.scripted.answer = hangs
    pipe, _headers, task = house.arrive("other")
    await say(pipe, id=1, method="initialize", params=PARAMS)
    await receive(pipe)
    await say(pipe, id=2, method="tools/call", params={"name": "x"})
    await asyncio.wait_for(began.wait(), 5)
    assert house.reception.active("websocket") == 1
    pipe.end(ConnectionResetError("gone"))
    await asyncio.wait_for(ended.wait(), 5)
    await asyncio.wait([task])


async def test_a_half_close_is_answered_first(house: House) -> None:
    pipe, _headers, task = house.arrive()
    await say(pipe, id=1, method="initialize", params=PARAMS)
    pipe.end(None)
    assert (await receive(pipe))["id"] == 1
    await asyncio.wait([task])
    assert pipe.closed


async def test_sign_in_counts_at_every_message_and_its_end_is_the_end_of_the_connection(house: House) -> None:
    pipe, _headers, task = house.arrive()
    await say(pipe, id=1, method="ping", params={"_meta": META})
    assert (await receive(pipe))["error"]["code"] == -32601  # modern: there is no ping, but somebody who may ask
    del house.good["good"]
    await say(pipe, id=2, method="tools/list", params={"_meta": META})
    assert (await receive(pipe))["error"]["data"]["reason"] == "unauthorized"
    await asyncio.wait([task])
    assert pipe.closed


async def test_a_session_stays_with_the_one_who_opened_it(house: House) -> None:
    pipe, headers, _task = house.arrive()
    await say(pipe, id=1, method="initialize", params=PARAMS)
    await receive(pipe)
    headers["authorization"] = "other"
    await say(pipe, id=2, method="tools/list")
    assert (await receive(pipe))["error"]["data"]["reason"] == "session_unknown"


async def test_who_drains_answers_what_was_asked_and_lets_its_clients_go(house: House) -> None:
    gate = asyncio.Event()

    async def waits(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/list":
            await gate.wait()
        return await content_answer(talk, request, reply)

    house.scripted.answer = waits
    busy, _headers, busy_task = house.arrive()
    idle, _headers, idle_task = house.arrive()
    await say(busy, id=1, method="initialize", params=PARAMS)
    await receive(busy)
    await say(busy, id=2, method="tools/list")
    await until(lambda: house.reception.active("websocket"))
    house.bridge.draining.set()
    await asyncio.wait([idle_task])
    assert idle.closed
    assert not busy_task.done()
    gate.set()
    assert (await receive(busy))["result"] == {"by": "tools/list"}
    await asyncio.wait([busy_task])


async def test_an_arrival_passes_the_front_ring_before_its_first_message(house: House) -> None:
    await house.reception.admit(Arrival("websocket", "127.0.0.1", {"authorization": "good"}))
    with pytest.raises(BridgeError) as refused:
        await house.reception.admit(Arrival("websocket", "127.0.0.1"))
    assert refused.value.fault.status == 401
