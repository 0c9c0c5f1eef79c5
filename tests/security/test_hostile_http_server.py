"""A Streamable HTTP server that means harm: its own calls fail with a clear error, nobody else notices (OWASP MCP05, MCP09)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpbridge.transports.http1.server import HttpRequest, Responder
from tests.transports.http.test_streamable import JSON, event, modern_server, result, world

pytestmark = pytest.mark.security

SSE = [("content-type", "text/event-stream")]
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "evil", "version": "1"}}
SESSION = ("mcp-session-id", "upstream-1")


async def legacy_server(request: HttpRequest, responder: Responder, message: Any) -> None:
    """A legacy server with a session and without a GET stream."""
    method = message.get("method")
    if request.method != "POST":
        await responder.respond(405 if request.method == "GET" else 200)
    elif method == "initialize":
        await responder.respond(200, [*JSON, SESSION], result(message["id"], HELLO))
    elif method == "server/discover":
        await responder.respond(400, JSON, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"no session"}}')
    elif "id" not in message:
        await responder.respond(202)
    else:
        await responder.respond(200, JSON, result(message["id"], {"content": []}))


@pytest.mark.parametrize("error", ['{"code":[1],"message":5}', '{"code":1,"code":2,"message":"x"}', '{"code":1e400}', "{}"])
async def test_an_error_with_an_unreadable_code_is_passed_on_and_not_a_fault_of_the_bridge(error: str) -> None:
    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "tools/call":
            await responder.respond(200, JSON, f'{{"jsonrpc":"2.0","id":{message["id"]},"error":{error}}}'.encode())
        else:
            await modern_server(request, responder, message)

    async with world(serve) as client:
        status, _headers, answer = await client.modern(1, "tools/call", {"name": "t"})
        assert status == 200
        assert "error" in answer


@pytest.mark.parametrize(
    "version",
    ["2025-11-25\r\nx-evil: 1", "\ud800", "é", "日本", "x" * 5000],
    ids=["two lines", "half a character", "latin", "not latin", "long"],
)
async def test_a_strange_version_of_a_server_gets_into_no_header(version: str) -> None:
    seen: list[str | None] = []

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "initialize":
            await responder.respond(200, [*JSON, SESSION], result(message["id"], {**HELLO, "protocolVersion": version}))
        else:
            seen.append(request.headers.get("mcp-protocol-version"))
            assert "x-evil" not in request.headers
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize()
        _status, _headers, answer = await client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}})
        assert answer["result"] == {"content": []}
        assert seen and set(seen) == {None}


@pytest.mark.parametrize("id", ["\x01", "日本", "é", "x" * 100_000], ids=["control", "not latin", "latin", "long"])
async def test_an_event_id_that_fits_no_header_ends_only_its_stream(id: str) -> None:
    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "tools/call":
            await responder.start(200, SSE)
            responder.send(f"id: {id}\nretry: 1\ndata: \n\n".encode())
            await responder.end()
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize()
        _status, _headers, answer = await client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}})
        assert answer["error"]["data"]["reason"] == "stream_closed"


async def test_a_server_cannot_make_the_bridge_reconnect_in_a_tight_loop() -> None:
    reads = 0

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        nonlocal reads
        if request.method == "GET":
            reads += 1
            await responder.start(200, SSE)
            responder.send(b"id: 1\nretry: 0\ndata: \n\n")
            await responder.end()
        elif message.get("method") == "tools/call":
            async with asyncio.timeout(5):
                while not reads:
                    await asyncio.sleep(0)
            for _ in range(2000):  # turns of the loop, in which a tight one would read hundreds of times
                await asyncio.sleep(0)
            await legacy_server(request, responder, message)
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize()
        await client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}})
        assert 1 <= reads <= 10


async def test_a_question_nobody_waits_for_is_put_before_the_answer_and_may_be_answered(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers: list[Any] = []
    told = asyncio.Event()

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "tools/call":
            await responder.start(200, SSE)
            question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}
            responder.send(event(question) + event(answer))
            await responder.end()
        elif "method" not in message and request.method == "POST":
            answers.append(message)
            told.set()
            await responder.respond(202)
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize(roots={})
        _, _, said = await client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}})
        assert [message.get("method") for message in said] == ["roots/list", None]
        await client.post({"id": said[0]["id"], "result": {"roots": []}})
        async with asyncio.timeout(5):
            await told.wait()
        assert answers == [{"jsonrpc": "2.0", "id": "q", "result": {"roots": []}}]
    assert "question failed inside the bridge" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", None], ids=["stream", "body", "silence"])
async def test_a_notification_that_a_server_never_takes_does_not_hold_the_client_up(
    kind: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpbridge.transports.http.upstream.TAKE_TIME", 0.05)

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "notifications/roots/list_changed":
            if kind is not None:
                await responder.start(200, [("content-type", kind)])
            await asyncio.Event().wait()
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize(roots={"listChanged": True})
        async with asyncio.timeout(5), asyncio.TaskGroup() as both:
            note = both.create_task(client.post({"method": "notifications/roots/list_changed"}))
            call = both.create_task(client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}}))
        assert note.result()[0] == 202  # any other status ends the session of the Python SDK 1.x
        assert call.result()[2]["result"] == {"content": []}


@pytest.mark.parametrize("id", ["é", "two words", "x" * 5000, "\x7f"], ids=["latin", "space inside", "long", "control"])
async def test_a_session_id_that_is_none_is_the_servers_fault(id: str) -> None:
    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "initialize":
            await responder.respond(200, [*JSON, ("mcp-session-id", id)], result(message["id"], HELLO))
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        _status, _headers, answer = await client.initialize()
        assert answer["error"]["data"]["reason"] in ("bad_answer", "backend_error")
        assert client.session is None


@pytest.mark.parametrize("hello", ["[1]", '"hello"', '{"protocolVersion":"a","protocolVersion":"b"}', "7"])
async def test_an_initialize_result_that_is_no_object_is_the_servers_fault(hello: str) -> None:
    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "initialize":
            answer = f'{{"jsonrpc":"2.0","id":{message["id"]},"result":{hello}}}'.encode()
            await responder.respond(200, [*JSON, SESSION], answer)
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        _status, _headers, answer = await client.initialize()
        assert answer["error"]["data"]["reason"] == "bad_answer"


async def test_a_flood_of_questions_is_read_no_faster_than_they_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpbridge.transports.http.upstream.MAX_QUESTIONS", 5)
    open_, most, answered = 0, 0, 0

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        nonlocal open_, most, answered
        if message.get("method") == "tools/call":
            await responder.start(200, SSE)
            for number in range(200):
                responder.send(event({"jsonrpc": "2.0", "id": number, "method": "ping"}))
            responder.send(event({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}))
            await responder.end()
        elif "method" not in message and request.method == "POST":
            open_ += 1
            most = max(most, open_)
            for _ in range(5):
                await asyncio.sleep(0)
            open_ -= 1
            answered += 1
            await responder.respond(202)
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        _status, _headers, answer = await client.modern(1, "tools/call", {"name": "t"})  # it is not asked: the bridge answers
        assert answer["result"]["content"] == []
        assert answered >= 195
        assert 1 < most <= 5


@pytest.mark.parametrize("token", [r'"\ud800"', "1e400", "[[1]]", "true", "-1", "1" * 5000], ids=lambda token: token[:8])
async def test_progress_with_an_absurd_token_does_not_end_the_stream_it_came_on(token: str) -> None:
    told = asyncio.Event()
    absurd = f'{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":{token},"progress":1}}}}'

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if request.method == "GET":
            await responder.start(200, SSE)
            responder.send(b"data: " + absurd.encode() + b"\n\n")
            responder.send(event({"jsonrpc": "2.0", "id": "after", "method": "ping"}))
            await told.wait()
            await responder.end()
        elif message.get("id") == "after":
            told.set()
            await responder.respond(202)
        else:
            await legacy_server(request, responder, message)

    async with world(serve) as client:
        await client.initialize()
        async with asyncio.timeout(5):
            await told.wait()


async def test_calls_that_are_asked_find_a_connection_for_the_answer_when_calls_hold_all() -> None:
    """With as many calls as connections, each waiting for the answer to its question, nobody may wait for the other."""
    answered: dict[str, asyncio.Event] = {}

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message.get("method") == "tools/call":
            name = f"q{message['id']}"
            answered[name] = asyncio.Event()
            await responder.start(200, SSE)
            responder.send(event({"jsonrpc": "2.0", "id": name, "method": "ping"}))
            await answered[name].wait()
            responder.send(event({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}}))
            await responder.end()
        elif str(message.get("id")) in answered:
            answered[message["id"]].set()
            await responder.respond(202)
        else:
            await legacy_server(request, responder, message)

    async with world(serve, connections=3) as client:
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            calls = [group.create_task(client.modern(n, "tools/call", {"name": "t"})) for n in range(1, 10)]
        assert [call.result()[2]["result"]["content"] for call in calls] == [[]] * 9
