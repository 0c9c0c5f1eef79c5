"""Streamable HTTP from end to end: a raw client, our listener, the rings, our upstream, a scripted HTTP server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.era import Crossings
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.validate import validate
from mcpbridge.stores.events import MemoryEvents
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.transports.http.dial import dial
from mcpbridge.transports.http.listen import HttpFrontend
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from mcpbridge.wire.sse import SseParser
from tests.golden.player import anonymous

VERSION = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
JSON = [("content-type", "application/json")]
BOTH = ("accept", "application/json, text/event-stream")
Serve = Callable[[HttpRequest, Responder, Any], Awaitable[None]]


class Client:
    """A raw HTTP client of one MCP endpoint."""

    def __init__(self, pool: HttpPool) -> None:
        self._pool = pool
        self.bridge: Bridge
        self.session: str | None = None

    async def post(self, message: Any, **headers: str) -> tuple[int, Any, Any]:
        """Status, headers and body: JSON, or the list of messages of a stream."""
        given = [BOTH, *JSON, *((k.replace("_", "-"), v) for k, v in headers.items())]
        if self.session is not None:
            given.append(("mcp-session-id", self.session))
        body = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0", **message}).encode()
        response = await self._pool.request("POST", "/mcp", given, body, retry_safe=False, max_response=1 << 24)
        raw = await response.read()
        self.session = response.headers.get("mcp-session-id") or self.session
        if (response.headers.get("content-type") or "").startswith("text/event-stream"):
            return response.status, response.headers, [json.loads(e.data) for e in SseParser().feed(raw) if e.data]
        return response.status, response.headers, json.loads(raw) if raw else None

    async def modern(
        self, id: int | str, method: str, params: dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, Any, Any]:
        named = {"mcp_name": params["name"]} if params and "name" in params else {}
        message = {"id": id, "method": method, "params": {**(params or {}), "_meta": META}}
        return await self.post(message, **{"mcp_protocol_version": VERSION, "mcp_method": method, **named, **headers})

    async def initialize(self, **capabilities: Any) -> Any:
        params = {"protocolVersion": "2025-11-25", "capabilities": capabilities, "clientInfo": {"name": "c", "version": "1"}}
        found = await self.post({"id": 0, "method": "initialize", "params": params})
        await self.post({"method": "notifications/initialized"})
        return found

    @asynccontextmanager
    async def stream(self, **headers: str) -> AsyncIterator[AsyncIterator[tuple[str | None, Any]]]:
        given = [("accept", "text/event-stream"), ("mcp-session-id", self.session or "")]
        given += [(k.replace("_", "-"), v) for k, v in headers.items()]
        response = await self._pool.request("GET", "/mcp", given, b"", retry_safe=True, max_response=1 << 24)
        assert response.status == 200

        async def events() -> AsyncIterator[tuple[str | None, Any]]:
            parser = SseParser()
            async for chunk in response.chunks():
                for event in parser.feed(chunk):
                    if event.data or event.id:
                        yield event.id, json.loads(event.data) if event.data else None

        try:
            yield events()
        finally:
            await response.aclose()

    async def delete(self) -> int:
        response = await self._pool.request(
            "DELETE", "/mcp", [("mcp-session-id", self.session or "")], b"", retry_safe=True, max_response=1000
        )
        await response.aclose()
        return response.status


@asynccontextmanager
async def world(serve: Serve, *, connections: int = 100, aggregate: bool = False) -> AsyncIterator[Client]:
    """A client in front of the bridge in front of an HTTP server that runs ``serve`` for every request.

    ``connections``: how many the bridge uses for calls. ``aggregate``: the server, `s`, is one of several.
    """

    async def backend(request: HttpRequest, responder: Responder) -> None:
        await serve(request, responder, json.loads(request.body) if request.body else {})

    async with AsyncExitStack() as stack:
        server = HttpServer(backend)
        stack.push_async_callback(server.close)
        host, port = await server.start("127.0.0.1", 0)
        yield await stack.enter_async_context(
            in_front_of(f"http://{host}:{port}", connections=connections, aggregate=aggregate)
        )


@asynccontextmanager
async def in_front_of(
    url: str, *, connections: int = 100, deadline: float = 5, max_response: int = 10_485_760, aggregate: bool = False
) -> AsyncIterator[Client]:
    """A client in front of the bridge in front of whatever listens at this origin."""
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        upstream = HttpPool(url, max_size=connections)
        stack.push_async_callback(upstream.close)
        bridge = await stack.enter_async_context(Bridge("gateway", MemoryStore(), Crossings()))
        reach = dial("s", bridge.spawn, upstream, f"{url}/mcp", max_response=max_response)
        server = bridge.add("s", [Way("http", "s", reach)])
        target = (server,) if aggregate else server
        numbers = iter(range(1, 1000))
        ring = [anonymous(), sessions(bridge.sessions, lambda _record: f"id{next(numbers)}"), validate()]
        front_ring = bridge.front(ring, bridge.endpoint())
        frontend = HttpFrontend(front_ring, bridge.draining, MemoryEvents().open, deadline=deadline)
        front = HttpServer(lambda request, responder: frontend.handle(request, responder, target))
        stack.push_async_callback(front.close)
        near = await front.start("127.0.0.1", 0)
        pool = HttpPool(f"http://{near[0]}:{near[1]}")
        stack.push_async_callback(pool.close)
        client = Client(pool)
        client.bridge = bridge
        yield client


def result(id: Any, value: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": value}).encode()


def event(message: Any, id: str = "") -> bytes:
    return (f"id: {id}\n" if id else "").encode() + b"data: " + json.dumps(message).encode() + b"\n\n"


DISCOVER = {
    "resultType": "complete",
    "supportedVersions": [VERSION],
    "capabilities": {"tools": {}},
    "ttlMs": 0,
    "cacheScope": "private",
}


async def modern_server(request: HttpRequest, responder: Responder, message: Any) -> None:
    if message.get("method") == "server/discover":
        await responder.respond(200, JSON, result(message["id"], DISCOVER))
    elif message.get("method") == "initialize":
        error = {"code": -32601, "message": "Method not found"}
        await responder.respond(404, JSON, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
    else:
        echo = {
            k: request.headers.get(k)
            for k in ("mcp-method", "mcp-name", "mcp-protocol-version", "authorization", "mcp-session-id")
        }
        await responder.respond(200, JSON, result(message["id"], {"resultType": "complete", "echo": echo}))


async def test_a_modern_call_takes_its_own_headers_upstream_and_nothing_of_the_client() -> None:
    async with world(modern_server) as client:
        status, _, body = await client.modern(
            1, "tools/call", {"name": "ü t"}, mcp_name="=?base64?w7wgdA==?=", authorization="Bearer x"
        )
        assert status == 200
        assert body["result"]["echo"] == {
            "mcp-method": "tools/call",
            "mcp-name": "=?base64?w7wgdA==?=",
            "mcp-protocol-version": VERSION,
            "authorization": None,
            "mcp-session-id": None,
        }


@pytest.mark.parametrize(
    ("headers", "code", "status"),
    [
        ({"mcp_method": "tools/call"}, -32020, 400),
        ({"mcp_protocol_version": "2025-11-25"}, -32020, 400),
    ],
)
async def test_headers_that_contradict_the_body_are_refused(headers: dict[str, str], code: int, status: int) -> None:
    async with world(modern_server) as client:
        found, _, body = await client.modern("q", "tools/list", **headers)
        assert (found, body["error"]["code"], body["id"]) == (status, code, "q")


async def test_what_is_no_request_is_refused_and_the_connection_stays() -> None:
    async with world(modern_server) as client:
        status, _, body = await client.post(b"{")
        assert (status, body["error"]["code"], body["id"]) == (400, -32700, None)
        status, _, body = await client.post(b'{"jsonrpc":"2.0","id":9,"method":5}')
        assert (status, body["error"]["code"], body["id"]) == (400, -32600, 9)
        status, _, body = await client.post(b"[]")
        assert (status, body["error"]["code"]) == (400, -32600)
        status, _, body = await client.modern(1, "ping")
        assert (status, body["error"]["code"]) == (404, -32601)
        status, _, body = await client.modern(1, "tools/list")
        assert status == 200


async def test_a_legacy_client_reaches_a_modern_server() -> None:
    async with world(modern_server) as client:
        status, _, body = await client.initialize()
        assert (status, body["result"]["protocolVersion"]) == (200, "2025-11-25")
        assert client.session == "id1"
        status, _, body = await client.post({"id": 2, "method": "tools/call", "params": {"name": "t"}})
        assert body["result"]["echo"]["mcp-method"] == "tools/call"
        assert "resultType" not in body["result"]


async def test_sessions_are_required_known_and_ended() -> None:
    async with world(modern_server) as client:
        status, _, _ = await client.post({"id": 1, "method": "tools/list"})
        assert status == 400
        await client.initialize()
        assert await client.delete() == 200
        status, _, body = await client.post({"id": 1, "method": "tools/list"})
        assert (status, body["error"]["code"]) == (404, 1013)
        assert await client.delete() == 404


class LegacyServer:
    """A 2025-11-25 server with a session, a GET stream, and tools that talk."""

    def __init__(self) -> None:
        self.answers: asyncio.Queue[Any] = asyncio.Queue()
        self.seen: list[str] = []
        self.push: Responder | None = None
        self.pushed = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled: asyncio.Queue[Any] = asyncio.Queue()
        self.sessions = 0

    async def __call__(self, request: HttpRequest, responder: Responder, message: Any) -> None:
        self.seen.append(message.get("method") or request.method)
        if request.method == "GET":
            await responder.start(200, [("content-type", "text/event-stream")])
            if request.headers.get("last-event-id") == "7":
                responder.send(event({"jsonrpc": "2.0", "id": int(self.polled), "result": {"late": True}}))
                await responder.end()
                return
            self.push = responder
            responder.on_gone = self.release.set
            self.pushed.set()
            await self.release.wait()
        elif request.method == "DELETE":
            await responder.respond(200)
        elif "method" not in message:
            self.answers.put_nowait(message)
            await responder.respond(202)
        elif message["method"] == "initialize":
            self.sessions += 1
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"},
            }
            await responder.respond(200, [*JSON, ("mcp-session-id", f"up{self.sessions}")], result(message["id"], hello))
        elif message["method"] == "server/discover":
            error = {
                "jsonrpc": "2.0",
                "id": "server-error",
                "error": {"code": -32600, "message": "Bad Request: Missing session ID"},
            }
            await responder.respond(400, JSON, json.dumps(error).encode())
        elif "id" not in message:
            if message["method"] == "notifications/cancelled":
                self.cancelled.put_nowait(message["params"])
            await responder.respond(202)
        else:
            await self.call(message, responder)

    async def call(self, message: Any, responder: Responder) -> None:
        name = message.get("params", {}).get("name")
        if name == "ask":
            await responder.start(200, [("content-type", "text/event-stream")])
            question = {"jsonrpc": "2.0", "id": "q1", "method": "elicitation/create", "params": {"message": "?"}}
            responder.send(
                event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "hm"}})
            )
            responder.send(event(question))
            answer = await self.answers.get()
            responder.send(event({"jsonrpc": "2.0", "id": message["id"], "result": {"said": answer}}))
            await responder.end()
        elif name == "poll":
            self.polled = message["id"]
            await responder.start(200, [("content-type", "text/event-stream")])
            responder.send(b"id: 7\nretry: 1\ndata:\n\n")
            await responder.end()
        elif name == "hang":
            responder.on_gone = self.release.set
            self.pushed.set()
            await self.release.wait()
        else:
            await responder.respond(200, JSON, result(message["id"], {"ok": True}))


async def test_a_question_travels_on_the_stream_of_its_call_and_its_answer_comes_back() -> None:
    server = LegacyServer()
    async with world(server) as client:
        await client.initialize(elicitation={})
        call = asyncio.ensure_future(client.post({"id": 5, "method": "tools/call", "params": {"name": "ask"}}))
        async with asyncio.timeout(5):
            while "notifications/initialized" not in server.seen or server.answers.empty():
                status, _, _ = await client.post({"id": 1, "result": {"action": "accept"}})
                assert status == 202
                await asyncio.sleep(0.01)
                if call.done():
                    break
        status, headers, messages = await call
        assert headers.get("content-type") == "text/event-stream"
        assert [m.get("method") for m in messages] == ["notifications/message", "elicitation/create", None]
        assert messages[-1] == {
            "jsonrpc": "2.0",
            "id": 5,
            "result": {"said": {"jsonrpc": "2.0", "id": "q1", "result": {"action": "accept"}}},
        }


async def test_a_server_that_ends_its_stream_early_is_asked_again_from_where_it_stopped() -> None:
    async with world(LegacyServer()) as client:
        await client.initialize()
        _, _, body = await client.post({"id": 5, "method": "tools/call", "params": {"name": "poll"}})
        assert body == {"jsonrpc": "2.0", "id": 5, "result": {"late": True}}


async def test_what_a_server_says_outside_any_call_comes_on_the_get_stream_and_can_be_resumed() -> None:
    server = LegacyServer()
    async with world(server) as client:
        await client.initialize(roots={})
        await server.pushed.wait()
        async with client.stream() as events:
            start = (await anext(events))[0]
            assert server.push is not None
            server.push.send(event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
            assert (await anext(events))[1] == {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
            server.push.send(event({"jsonrpc": "2.0", "id": 3, "method": "roots/list"}))
            _, question = await anext(events)
            assert question["method"] == "roots/list"
            await client.post({"id": question["id"], "result": {"roots": []}})
            assert (await server.answers.get()) == {"jsonrpc": "2.0", "id": 3, "result": {"roots": []}}
        async with client.stream(last_event_id=start) as events:
            assert (await anext(events))[1]["method"] == "notifications/tools/list_changed"


async def test_cancelled_reaches_the_legacy_server_with_the_id_it_knows() -> None:
    server = LegacyServer()
    async with world(server) as client:
        await client.initialize(roots={})
        await server.pushed.wait()
        server.pushed.clear()
        call = asyncio.ensure_future(client.post({"id": "mine", "method": "tools/call", "params": {"name": "hang"}}))
        await server.pushed.wait()
        await client.post({"method": "notifications/cancelled", "params": {"requestId": "mine", "reason": "enough"}})
        assert (await server.cancelled.get()) == {"requestId": 2, "reason": "enough"}
        assert (await call)[2] == []  # its POST ends without an answer


async def test_a_modern_client_reaches_a_legacy_server_whose_refusal_of_the_probe_is_no_modern_error() -> None:
    server = LegacyServer()
    async with world(server) as client:
        status, _, body = await client.modern(1, "tools/call", {"name": "t"})
        assert (status, body["result"]["ok"], body["result"]["resultType"]) == (200, True, "complete")


async def test_a_question_that_a_modern_client_cannot_be_given_is_refused_and_ends_the_call() -> None:
    server = LegacyServer()
    async with world(server) as client:
        status, _, body = await client.modern(1, "tools/call", {"name": "ask"})
        assert status == 400
        assert body["error"]["code"] == -32021
        assert body["error"]["data"]["requiredCapabilities"] == {"elicitation": {}}


async def test_a_question_that_a_modern_client_can_be_given_parks_the_call_until_its_retry() -> None:
    server = LegacyServer()
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    headers = {"mcp_protocol_version": VERSION, "mcp_method": "tools/call", "mcp_name": "ask"}
    async with world(server) as client:
        call = {"name": "ask", "_meta": meta}
        status, _, body = await client.post({"id": 1, "method": "tools/call", "params": call}, **headers)
        assert status == 200
        asked = body["result"]
        assert asked["inputRequests"] == {"elicitation_1": {"method": "elicitation/create", "params": {"message": "?"}}}
        again = {**call, "requestState": asked["requestState"], "inputResponses": {"elicitation_1": {"action": "decline"}}}
        status, _, body = await client.post({"id": 2, "method": "tools/call", "params": again}, **headers)
        assert status == 200
        assert body["result"]["said"]["result"] == {"action": "decline"}
        status, _, body = await client.post({"id": 3, "method": "tools/call", "params": again}, **headers)
        assert status == 400
        assert body["error"]["code"] == -32602
        assert body["error"]["data"]["reason"] == "unknown_request_state"


async def test_a_session_of_another_protocol_version_header_is_refused() -> None:
    async with world(LegacyServer()) as client:
        await client.initialize()
        status, _, _ = await client.post({"id": 1, "method": "tools/list"}, mcp_protocol_version="1999-01-01")
        assert status == 400


async def test_a_modern_clients_own_notification_reaches_its_server_of_either_era() -> None:
    seen: list[Any] = []

    async def modern(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message and "id" not in message:
            seen.append((message, request.headers.get("mcp-method")))
            await responder.respond(202)
        else:
            await modern_server(request, responder, message)

    note = {"method": "notifications/vendor", "params": {"_meta": META, "x": 1.50}}
    headers = {"mcp_protocol_version": VERSION, "mcp_method": "notifications/vendor"}
    async with world(modern) as client:
        assert (await client.post(note, **headers))[0] == 202
    assert seen == [({"jsonrpc": "2.0", **note}, "notifications/vendor")]
    server = LegacyServer()
    async with world(server) as client:
        assert (await client.post(note, **headers))[0] == 202
    assert server.seen.count("notifications/vendor") == 1
