"""A client on a pipe: order, limits, half-close."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import pytest

from mcpbridge.core.duplex import DuplexClient
from mcpbridge.core.exchange import Exchange
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from tests.golden.player import Pipe, receive
from tests.support.scripted import META, VERSION, until

WAIT = 5.0


class World:
    """A DuplexClient whose front ring is the test."""

    def __init__(self, limit: int = 100) -> None:
        self.pipe = Pipe()
        self.seen: list[str] = []
        self.newest: Exchange | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.gates: dict[str, asyncio.Event] = {}
        self.client = DuplexClient(self.pipe, self.front, tuple, self.spawn, protocol="stdio", deadline=WAIT, limit=limit)
        self.client.start()

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def gate(self, method: str) -> asyncio.Event:
        return self.gates.setdefault(method, asyncio.Event())

    async def front(self, x: Exchange) -> m.Response | None:
        self.seen.append(x.view.method)
        self.newest = x
        if x.view.method in self.gates:
            await self.gates[x.view.method].wait()
        if not isinstance(x.message, m.Request):
            return None
        if x.view.method == "fails":
            raise BridgeError("no_backend", "nobody", sent=False)
        return m.result(x.message.id, {"did": x.view.method})

    def says(self, **message: Any) -> None:
        self.pipe.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def modern(self, id: int, method: str) -> None:
        self.says(id=id, method=method, params={"_meta": META})


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World(limit=2)
    yield world
    world.client.peer.cancel_served("over")
    await until(lambda: not world.tasks)


async def test_what_comes_with_initialize_waits_for_its_answer_and_keeps_its_order(world: World) -> None:
    gate = world.gate("initialize")
    params = {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    world.says(id=0, method="initialize", params=params)
    world.says(method="notifications/initialized")
    world.says(id=1, method="tools/list")
    world.says(id=2, method="prompts/list")
    await until(lambda: world.seen)
    await asyncio.sleep(0)
    assert world.seen == ["initialize"]
    gate.set()
    assert [(await receive(world.pipe))["id"] for _ in range(3)] == [0, 1, 2]
    assert world.seen == ["initialize", "notifications/initialized", "tools/list", "prompts/list"]


async def test_beyond_twice_the_limit_requests_are_refused_and_a_listen_holds_no_place(world: World) -> None:
    gate, listen = world.gate("tools/call"), world.gate("subscriptions/listen")
    world.modern(100, "subscriptions/listen")
    for id in range(5):
        world.modern(id, "tools/call")
    refused = await receive(world.pipe)
    assert (refused["id"], refused["error"]["code"]) == (4, 1009)
    assert sorted(world.seen) == ["subscriptions/listen", "tools/call", "tools/call"]
    gate.set()
    assert sorted([(await receive(world.pipe))["id"] for _ in range(4)]) == [0, 1, 2, 3]
    listen.set()
    assert (await receive(world.pipe))["id"] == 100


async def test_a_cancelled_request_that_waited_frees_its_place_in_the_queue(world: World) -> None:
    gate = world.gate("tools/call")
    for id in range(4):
        world.modern(id, "tools/call")
    await until(lambda: len(world.seen) == 2)
    for id in (2, 3):
        world.says(method="notifications/cancelled", params={"requestId": id})
    await until(lambda: len(world.client.peer._tasks) == 2)
    world.modern(5, "tools/call")
    gate.set()
    assert sorted([(await receive(world.pipe))["id"] for _ in range(3)]) == [0, 1, 5]


async def test_the_end_of_input_ends_listens_with_their_result_and_answers_what_was_asked(world: World) -> None:
    gate = world.gate("tools/call")
    world.gate("subscriptions/listen")
    world.modern(7, "subscriptions/listen")
    world.modern(8, "tools/call")
    await until(lambda: len(world.seen) == 2)
    finished = asyncio.ensure_future(world.client.finished(WAIT))
    world.pipe.end(None)
    ended = await receive(world.pipe)
    assert (ended["id"], ended["result"]["resultType"]) == (7, "complete")
    assert not finished.done()
    gate.set()
    assert (await receive(world.pipe))["id"] == 8
    assert await asyncio.wait_for(finished, WAIT) is None


@pytest.mark.requirement("cli.stdin-eof")
async def test_what_is_not_answered_in_time_after_the_end_of_input_is_told_so(world: World) -> None:
    world.gate("tools/call")
    world.modern(1, "tools/call")
    world.pipe.end(None)
    assert await asyncio.wait_for(world.client.finished(0.01), WAIT) is None
    answer = await receive(world.pipe)
    assert (answer["id"], answer["error"]["data"]["reason"]) == (1, "timeout")
    await until(lambda: not world.tasks)
    assert world.pipe.received.empty()


@pytest.mark.requirement("cli.stdin-eof")
async def test_the_deadline_of_a_call_counts_from_its_reading_not_from_the_end_of_initialize(world: World) -> None:
    gate = world.gate("initialize")
    world.says(id=0, method="initialize", params={"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}})
    world.says(id=1, method="tools/list")
    await until(lambda: len(world.seen) == 1 and len(world.client.peer._tasks) == 2)
    long_read = monotonic()
    gate.set()
    await until(lambda: len(world.seen) == 2)
    assert world.newest is not None and world.newest.view.method == "tools/list"
    assert world.newest.deadline.remaining(long_read) < WAIT


async def test_a_broken_pipe_is_told_as_the_cause(world: World) -> None:
    cause = ConnectionResetError("gone")
    world.pipe.end(cause)
    assert await asyncio.wait_for(world.client.finished(WAIT), WAIT) is cause


async def test_a_refusal_is_the_answer_and_a_refused_notification_is_silence(world: World) -> None:
    world.says(method="fails", params={})
    world.modern(1, "fails")
    answer = await receive(world.pipe)
    assert (answer["id"], answer["error"]["code"]) == (1, 1002)
    assert world.pipe.received.empty()


async def test_an_input_that_is_no_message_is_answered_and_the_next_is_served(world: World) -> None:
    world.pipe.feed(b"{not json")
    world.modern(1, "tools/list")
    assert (await receive(world.pipe))["error"]["code"] == -32700
    assert (await receive(world.pipe))["result"] == {"did": "tools/list"}
