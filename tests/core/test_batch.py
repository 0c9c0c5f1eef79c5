"""JSON-RPC batches on a pipe: split at the door, answered as one array, from clients of the one version that has them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.batch import Batch
from mcpbridge.core.duplex import DuplexClient
from mcpbridge.core.exchange import NoReply
from mcpbridge.policies.sessions import sessions
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.core.test_peer import Reply, Side
from tests.golden.player import Pipe, anonymous, receive
from tests.support import scripted

WAIT = 5.0


def test_answers_stand_in_the_order_of_their_requests_whatever_came_first() -> None:
    said: list[bytes] = []
    batch = Batch(said.append)
    first, second, third = batch.slot(), batch.slot(), batch.slot()
    third.put(b"3")
    third.done()
    batch.close()
    first.put(b"1")
    first.done()
    assert said == []
    second.done()  # cancelled: it has no answer
    assert said == [b"[1,3]"]


def test_nothing_is_said_without_an_answer_and_never_before_the_batch_is_complete() -> None:
    said: list[bytes] = []
    Batch(said.append).close()
    batch = Batch(said.append)
    slot = batch.slot()
    slot.put(b"1")
    slot.done()
    assert said == []
    batch.close()
    assert said == [b"[1]"]


class World:
    """A client on a pipe in front of a bridge with one scripted legacy server."""

    def __init__(self, bridge: Bridge, server: scripted.Scripted) -> None:
        self.pipe, self.server = Pipe(), server
        target = scripted.add(bridge, server, prefix=False)
        front = bridge.front([anonymous(), sessions(bridge.sessions, lambda _record: "id")], bridge.endpoint())
        self.client = DuplexClient(self.pipe, front, lambda: target, bridge.spawn, protocol="stdio", deadline=WAIT)
        self.client.start()

    def says(self, *messages: Any) -> None:
        for message in messages:
            self.pipe.feed(json.dumps(message).encode())


def call(id: Any, method: str = "tools/call") -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": method}


def hello(version: str) -> dict[str, Any]:
    params = {"protocolVersion": version, "capabilities": {"roots": {}}, "clientInfo": {"name": "c", "version": "1"}}
    return {**call(0, "initialize"), "params": params}


NOTE = {"jsonrpc": "2.0", "method": "notifications/vendor"}


@asynccontextmanager
async def opened() -> AsyncIterator[World]:
    server = scripted.Scripted()

    async def answer(talk: scripted.Talk, request: m.Request, reply: Any) -> m.Response:
        if request.method == "initialize":
            version = m.loads((request.params or {})["protocolVersion"])
            return m.result(request.id, {**scripted.HELLO, "protocolVersion": version})
        if request.method == "hang":
            return await scripted.never()  # type: ignore[no-any-return]
        return await scripted.answer(talk, request, reply)

    server.answer = answer
    async with asyncio.timeout(WAIT), Bridge("router", MemoryStore(), None) as bridge:
        yield World(bridge, server)


async def test_a_batch_may_come_right_behind_initialize_and_is_answered_as_one_array() -> None:
    async with opened() as world:
        world.says(hello("2025-03-26"), [call(1, "a"), NOTE, call("two", "b")])
        assert (await receive(world.pipe))["id"] == 0
        assert [(said["id"], said["result"]) for said in await receive(world.pipe)] == [(1, {"by": "a"}), ("two", {"by": "b"})]
        world.says([NOTE], call(3, "c"))
        assert (await receive(world.pipe))["id"] == 3
        assert [n.method for n in world.server.talks[-1].notifications] == [NOTE["method"]] * 2


async def test_a_cancelled_request_of_a_batch_has_no_answer_and_a_double_one_an_error() -> None:
    async with opened() as world:
        world.says(hello("2025-03-26"))
        await receive(world.pipe)
        world.says([call(1, "hang"), call(1, "a"), call(2, "b")])
        await scripted.until(lambda: "b" in world.server.talks[-1].methods)
        world.says({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        first, second = await receive(world.pipe)
        assert (first["id"], first["error"]["code"], second["id"]) == (1, -32600, 2)


@pytest.mark.parametrize("version", ["2024-11-05", "2025-06-18", "2025-11-25"])
async def test_other_versions_have_no_batches(version: str) -> None:
    async with opened() as world:
        world.says(hello(version))
        await receive(world.pipe)
        world.says([call(1, "a")])
        refused = await receive(world.pipe)
        assert (refused["id"], refused["error"]["code"]) == (None, -32600)
        assert world.server.talks[-1].methods == ["initialize"]


async def test_a_batch_without_a_session_is_refused_and_the_connection_stays() -> None:
    async with opened() as world:
        world.says([call(1, "a")], [{**call(2, "tools/list"), "params": {"_meta": scripted.META}}], hello("2025-03-26"))
        said = [await receive(world.pipe) for _ in range(3)]
        assert sorted(str(one["id"]) for one in said) == ["0", "None", "None"]
        world.says([hello("2025-03-26")])
        assert (await receive(world.pipe))["error"]["code"] == -32600


async def test_the_end_of_input_waits_for_a_batch_that_waits_for_initialize() -> None:
    async with opened() as world:
        world.says(hello("2025-03-26"), [call(1, "a")])
        world.pipe.end(None)
        await world.client.finished(WAIT)
        assert (await receive(world.pipe))["id"] == 0
        assert [said["id"] for said in await receive(world.pipe)] == [1]


async def test_a_servers_batch_is_split_and_its_questions_are_answered_as_one_array() -> None:
    side = Side(client=False)

    async def serve(request: m.Request) -> m.Response:
        return m.result(request.id, {"to": request.method})

    side.inbox.serve = serve
    reply = Reply()
    asking = m.request("mine", "tools/call", {"_meta": {"progressToken": "t"}})
    running, sent = await side.calls(asking, reply)
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": sent["id"], "progress": 1}}
    answer = {"jsonrpc": "2.0", "id": sent["id"], "result": {"ok": True}}
    side.pipe.feed(json.dumps([progress, NOTE, call("q1", "roots/list"), answer, call("q2", "ping")]).encode())
    response = await asyncio.wait_for(running, WAIT)
    assert (response.id, m.loads(response.result or b"")) == ("mine", {"ok": True})
    assert [m.loads(n.param("progressToken") or b"") for n in reply.heard] == ["t"]
    assert [n.method for n in side.inbox.heard] == [NOTE["method"]]
    assert [(said["id"], said["result"]["to"]) for said in await receive(side.pipe)] == [("q1", "roots/list"), ("q2", "ping")]


async def test_a_batch_longer_than_fifty_is_noise_from_a_server_and_refused_from_a_client() -> None:
    for is_client in (True, False):
        side = Side(client=is_client)
        side.pipe.feed(json.dumps([NOTE] * 51).encode())
        assert side.inbox.heard == []
        if is_client:
            assert (await receive(side.pipe))["error"]["code"] == -32600
    running = asyncio.ensure_future(side.peer.call(m.request(1, "x"), NoReply()))
    sent = await receive(side.pipe)
    side.says(id=sent["id"], result={})
    await asyncio.wait_for(running, WAIT)
