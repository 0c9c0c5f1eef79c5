"""Legacy Streamable HTTP from end to end: streams that break and are taken up again, sessions that end, batches."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import pytest

from mcpbridge.core.exchange import Exchange
from mcpbridge.transports.http import legacy
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire.sse import SseEvent, SseParser
from tests.transports.http.test_streamable import BOTH, JSON, Client, LegacyServer, event, result, world

STREAM = [("content-type", "text/event-stream")]


class Server(LegacyServer):
    """A server whose tools wait for the test: ``say`` makes the open call say something, ``go`` lets it answer."""

    def __init__(self, version: str = "2025-11-25") -> None:
        super().__init__()
        self.version = version
        self.called = asyncio.Event()
        self.ids: list[Any] = []
        self.open: dict[Any, Responder] = {}
        self.go = asyncio.Event()

    async def __call__(self, request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "initialize":
            hello = {"protocolVersion": self.version, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
            await responder.respond(200, [*JSON, ("mcp-session-id", "up")], result(message["id"], hello))
        else:
            await super().__call__(request, responder, message)

    async def call(self, message: Any, responder: Responder) -> None:
        name = message.get("params", {}).get("name")
        self.ids.append(name)
        if name == "slow":
            await responder.start(200, STREAM)
            self.open[name] = responder
            self.called.set()
            await self.go.wait()
            responder.send(event({"jsonrpc": "2.0", "id": message["id"], "result": {"slow": True}}))
            await responder.end()
        elif name == "fail":
            error = {"code": -32602, "message": "no"}
            await responder.respond(200, JSON, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        else:
            await responder.respond(200, JSON, result(message["id"], {"name": name}))

    def say(self, data: Any) -> None:
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": data}}
        self.open["slow"].send(event(note))


def tool(id: Any, name: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name}}


async def initialize(client: Client, version: str = "2025-11-25") -> None:
    params = {"protocolVersion": version, "capabilities": {"roots": {}}, "clientInfo": {"name": "c", "version": "1"}}
    status, _, _ = await client.post({"id": 0, "method": "initialize", "params": params})
    assert status == 200
    await client.post({"method": "notifications/initialized"})


@asynccontextmanager
async def posted(client: Client, message: Any) -> AsyncIterator[AsyncIterator[SseEvent]]:
    """A POST whose stream is read event by event and may be left at any time."""
    given = [BOTH, *JSON, ("mcp-session-id", client.session or "")]
    response = await client._pool.request(
        "POST", "/mcp", given, json.dumps(message).encode(), retry_safe=False, max_response=1 << 24
    )

    async def events() -> AsyncIterator[SseEvent]:
        parser = SseParser()
        async for chunk in response.chunks():
            for found in parser.feed(chunk):
                yield found

    try:
        yield events()
    finally:
        await response.aclose()


async def resumed(client: Client, id: str | None) -> list[Any]:
    """What a GET with this Last-Event-ID brings, until the stream ends."""
    assert id is not None
    async with client.stream(last_event_id=id) as events:
        return [message async for _id, message in events if message is not None]


async def resume_status(client: Client, id: str) -> tuple[int, Any]:
    headers = [("accept", "text/event-stream"), ("mcp-session-id", client.session or ""), ("last-event-id", id)]
    response = await client._pool.request("GET", "/mcp", headers, b"", retry_safe=True, max_response=1 << 20)
    return response.status, json.loads(await response.read())["error"]


async def test_a_client_that_went_away_finds_what_it_missed_and_the_answer() -> None:
    server = Server()
    async with world(server) as client:
        await initialize(client)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(first_events(client, server))
        ids = call.result()
        server.say(2)
        server.go.set()
        for id, numbers in zip(ids, ([1, 2], [2]), strict=True):
            messages = await resumed(client, id)
            assert [m["params"]["data"] for m in messages[:-1]] == numbers
            assert messages[-1] == {"jsonrpc": "2.0", "id": 5, "result": {"slow": True}}
        assert server.ids == ["slow"] and server.cancelled.empty()


async def first_events(client: Client, server: Server) -> list[str | None]:
    """Call ``slow``, read its prime and its first notification, and go away."""

    async def speak() -> None:
        await server.called.wait()
        server.say(1)

    async with asyncio.TaskGroup() as group:
        group.create_task(speak())
        async with posted(client, tool(5, "slow")) as events:
            prime, said = await anext(events), await anext(events)
    assert (prime.data, prime.retry) == (b"", 1000)
    assert json.loads(said.data)["params"]["data"] == 1
    return [prime.id, said.id]


async def test_a_stream_taken_up_again_while_its_call_runs_goes_on_live_and_has_nothing_of_other_calls() -> None:
    server = Server()
    async with world(server) as client:
        await initialize(client)
        ids = await first_events(client, server)
        async with client.stream(last_event_id=ids[1]) as events:
            server.say(2)
            assert (await anext(events))[1]["params"]["data"] == 2
            assert (await client.post(tool(6, "other")))[2]["result"] == {"name": "other"}
            server.say(3)
            server.go.set()
            rest = [message async for _id, message in events]
        assert [m.get("id") for m in rest] == [None, 5]


async def test_a_slow_answer_opens_its_stream_with_an_id_to_come_back_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legacy, "FAST_ANSWER", 0.0)
    server = Server()
    async with world(server) as client:
        await initialize(client)
        async with posted(client, tool(5, "slow")) as events:
            prime = await anext(events)
        server.go.set()
        assert await resumed(client, prime.id) == [{"jsonrpc": "2.0", "id": 5, "result": {"slow": True}}]


async def test_older_clients_get_no_event_without_data_and_can_still_come_back() -> None:
    server = Server("2025-06-18")
    async with world(server) as client:
        await initialize(client, "2025-06-18")

        async def speak() -> None:
            await server.called.wait()
            server.say(1)

        async with asyncio.TaskGroup() as group:
            group.create_task(speak())
            async with posted(client, tool(5, "slow")) as events:
                said = await anext(events)
        assert json.loads(said.data)["params"]["data"] == 1
        server.go.set()
        assert [m["id"] for m in await resumed(client, said.id)] == [5]


async def test_ids_that_name_nothing_kept_are_told_so() -> None:
    server = Server()
    async with world(server) as client, world(Server()) as stranger:
        await initialize(client)
        await initialize(stranger)
        (own, _) = await first_events(client, server)
        assert own is not None
        for wrong in ("0-0", "AAAAAAAAAAAA.0", own.replace(".0", ".99")):
            status, error = await resume_status(client, wrong)
            assert (status, error["code"], error["data"]["reason"]) == (400, 1026, "event_unknown")
        assert (await resume_status(stranger, own))[1]["data"]["reason"] == "event_unknown"
        stranger.session = "someone else's"
        assert (await resume_status(stranger, own))[0] == 404


async def test_an_answer_that_the_log_forgot_is_not_waited_for() -> None:
    server = Server()
    async with world(server) as client:
        await initialize(client)
        ids = await first_events(client, server)
        server.go.set()
        await resumed(client, ids[0])
        await client.post({"method": "notifications/initialized"})
        for session in client.bridge.sessions:
            session.back.log.close()  # type: ignore[attr-defined]
        assert (await resume_status(client, str(ids[0])))[0] == 400


async def test_what_was_delivered_on_the_get_stream_is_not_said_again_to_the_next_one() -> None:
    server = Server()
    async with world(server) as client:
        await initialize(client)
        await server.pushed.wait()
        assert server.push is not None
        for number in (1, 2, 3):
            async with client.stream() as events:
                prime, nothing = await anext(events)
                assert nothing is None and str(prime).endswith(f".{number - 1}")
                server.push.send(event({"jsonrpc": "2.0", "method": "notifications/x", "params": {"n": number}}))
                assert (await anext(events))[1]["params"]["n"] == number


async def test_delete_ends_calls_and_streams_and_leaves_nothing_to_come_back_to(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    async with world(server) as client:
        await initialize(client)
        monkeypatch.setattr(legacy, "FAST_ANSWER", 0.0)
        async with client.stream() as listening, posted(client, tool(6, "slow")) as calling:
            prime = await anext(calling)
            await anext(listening)
            monkeypatch.setattr(legacy, "FAST_ANSWER", 60.0)
            server.called.clear()
            waiting = asyncio.ensure_future(client.post(tool(5, "slow")))
            await server.called.wait()
            assert await client.delete() == 200
            assert [found async for found in calling] == []
            assert [found async for found in listening] == []
        status, _, body = await waiting
        assert (status, body["id"], body["error"]["data"]["reason"]) == (404, 5, "session_unknown")
        assert (await resume_status(client, str(prime.id)))[0] == 404
        assert (await client.post(tool(7, "x")))[0] == 404
        assert await client.delete() == 404


async def batch(client: Client, *messages: Any, **headers: str) -> tuple[int, Any, Any]:
    return await client.post(json.dumps(messages).encode(), **headers)


async def test_a_batch_is_answered_as_one_array_in_the_order_of_its_requests() -> None:
    server = Server("2025-03-26")
    async with world(server) as client:
        await initialize(client, "2025-03-26")
        note = {"jsonrpc": "2.0", "method": "notifications/vendor", "params": {}}
        status, headers, body = await batch(client, tool(1, "a"), note, tool("two", "fail"), tool(3, "c"))
        assert (status, headers.get("content-type")) == (200, "application/json")
        assert [m["id"] for m in body] == [1, "two", 3]
        assert body[0]["result"] == {"name": "a"} and body[1]["error"]["code"] == -32602
        assert "notifications/vendor" in server.seen


async def test_a_batch_without_requests_has_no_answer() -> None:
    async with world(Server("2025-03-26")) as client:
        await initialize(client, "2025-03-26")
        note = {"jsonrpc": "2.0", "method": "notifications/vendor"}
        status, _, body = await batch(client, note, {"jsonrpc": "2.0", "id": 99, "result": {}})
        assert (status, body) == (202, None)


async def test_a_batch_whose_calls_talk_is_answered_on_one_stream() -> None:
    server = Server("2025-03-26")
    async with world(server) as client:
        await initialize(client, "2025-03-26")
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(batch(client, tool(1, "slow"), tool(2, "b")))
            await server.called.wait()
            server.say("hm")
            server.go.set()
        status, headers, messages = answer.result()
        assert (status, headers.get("content-type")) == (200, "text/event-stream")
        assert messages[0]["method"] == "notifications/message"
        assert sorted(m["id"] for m in messages[1:]) == [1, 2]


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_other_versions_have_no_batches(version: str) -> None:
    server = Server(version)
    async with world(server) as client:
        await initialize(client, version)
        status, _, body = await batch(client, tool(1, "a"))
        assert (status, body["id"], body["error"]["code"]) == (400, None, -32600)
        assert server.ids == []


async def test_a_batch_needs_a_session_few_messages_no_initialize_and_nothing_modern() -> None:
    server = Server("2025-03-26")
    async with world(server) as client:
        status, _, body = await batch(client, tool(1, "a"))
        assert (status, body["error"]["data"]["reason"]) == (400, "session_required")
        await initialize(client, "2025-03-26")
        modern = tool(1, "a")
        modern["params"]["_meta"] = {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}
        for wrong in (
            [tool(n, "a") for n in range(51)],
            [],
            [{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}],
            [tool(1, "a"), modern],
            [tool(1, "a"), 5],
        ):
            status, _, body = await batch(client, *wrong)
            assert (status, body["error"]["code"]) == (400, -32600)
        assert server.ids == []


async def test_one_id_twice_in_a_batch_is_an_error_of_the_second_and_a_cancelled_call_has_no_answer() -> None:
    server = Server("2025-03-26")
    async with world(server) as client:
        await initialize(client, "2025-03-26")
        async with asyncio.TaskGroup() as group:
            answer = group.create_task(batch(client, tool(1, "slow"), tool(1, "a"), tool(2, "b")))
            await server.called.wait()
            await client.post({"method": "notifications/cancelled", "params": {"requestId": 1}})
        status, _, body = answer.result()
        assert status == 200
        assert [(m["id"], "error" in m) for m in body] == [(1, True), (2, False)]


async def test_one_timer_serves_all_slow_answers_each_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[tuple[str, float]] = []
    both = asyncio.Event()

    class Slow:
        def __init__(self, name: str) -> None:
            self.name = name

        def wake(self, loop: asyncio.AbstractEventLoop) -> None:
            woken.append((self.name, monotonic() - began))
            if len(woken) == 2:
                both.set()

    patience, began = legacy.Patience(), monotonic()
    replies = {name: Slow(name) for name in ("answered", "first", "second")}
    for name, wait in (("answered", 0.02), ("first", 0.02), ("second", 0.1)):
        monkeypatch.setattr(legacy, "FAST_ANSWER", wait)
        patience.add(replies[name])  # type: ignore[arg-type]
    patience.forget(replies["answered"])  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        await both.wait()
    (first, early), (second, late) = woken
    assert (first, second) == ("first", "second")
    assert early >= 0.015 and late >= 0.095


@pytest.mark.parametrize("name", ["fast", "fail"])
async def test_a_call_that_was_answered_leaves_nothing_for_the_garbage_collector(name: str) -> None:
    async with world(Server()) as client:
        await initialize(client)
        await client.post(tool(1, name))
        gc.collect()
        gc.disable()
        try:
            for number in range(2, 12):
                await client.post(tool(number, name))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = [kind.__name__ for kind in map(type, gc.garbage) if kind in (Exchange, legacy.LegacyReply, Responder)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert left == []
