"""Towards a legacy HTTP server: what it says on the stream that belongs to no call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from mcpbridge.transports.http import upstream
from mcpbridge.transports.http.legacy import LegacyReply
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification
from tests.support.scripted import HELLO
from tests.transports.http.test_streamable import JSON, META, VERSION, event, in_front_of, modern_server, result, world

STREAM = [("content-type", "text/event-stream")]


async def test_progress_that_a_server_puts_on_its_get_stream_reaches_its_call_with_the_clients_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening: asyncio.Future[Responder] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if request.method == "GET":
            await responder.start(200, STREAM)
            listening.set_result(responder)
            await over.wait()
        elif request.method == "DELETE" or "id" not in message:
            await responder.respond(202)
        elif message["method"] == "initialize":
            await responder.respond(200, [*JSON, ("mcp-session-id", "x")], result(message["id"], HELLO))
        else:
            token = message["params"]["_meta"]["progressToken"]
            stream = await listening
            for said in (token + 1000, token):  # the first one belongs to nobody
                params = {"progressToken": said, "progress": 1}
                stream.send(event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}))
            await responder.start(200, STREAM)
            await asyncio.wait_for(seen.wait(), 5)
            responder.send(event({"jsonrpc": "2.0", "id": message["id"], "result": {}}))
            await responder.end()

    seen = asyncio.Event()
    notify = LegacyReply.notify

    def noticed(reply: LegacyReply, notification: Notification) -> None:
        notify(reply, notification)
        seen.set()

    monkeypatch.setattr(LegacyReply, "notify", noticed)
    async with world(serve) as client:
        await client.initialize(roots={})
        call = asyncio.ensure_future(
            client.post({"id": 1, "method": "tools/call", "params": {"name": "t", "_meta": {"progressToken": "mine"}}})
        )
        await listening
        _, _, messages = await call
        over.set()
    assert [message.get("params", {}).get("progressToken") for message in messages] == ["mine", None]
    assert messages[-1]["id"] == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_array_of_a_2025_03_26_server_is_split_and_its_order_kept(streamed: bool) -> None:
    answers: asyncio.Queue[Any] = asyncio.Queue()

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if request.method in ("GET", "DELETE"):
            await responder.respond(405)
        elif "method" not in message:
            answers.put_nowait(message)
            await responder.respond(202)
        elif "id" not in message:
            await responder.respond(202)
        elif message["method"] == "initialize":
            await responder.respond(200, [*JSON, ("mcp-session-id", "x")], result(message["id"], HELLO))
        elif message["params"]["name"] == "none":
            await responder.respond(200, JSON, b'[{"jsonrpc":"2.0","id":"other","result":{}}]')
        else:
            notes = [{"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": n}} for n in (1, 2)]
            question = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}
            batch = [notes[0], question, notes[1], {"jsonrpc": "2.0", "id": message["id"], "result": {"ok": True}}]
            if streamed:
                await responder.start(200, STREAM)
                responder.send(event(batch))
                await responder.end()
            else:
                await responder.respond(200, JSON, json.dumps(batch).encode())

    async with world(serve) as client:
        await client.initialize(roots={})
        _, _, messages = await client.post({"id": 1, "method": "tools/call", "params": {"name": "t"}})
        assert [message["params"]["data"] for message in messages if message.get("method") == "notifications/message"] == [1, 2]
        assert messages[-1] == {"jsonrpc": "2.0", "id": 1, "result": {"ok": True}}
        if not streamed:
            _, _, body = await client.post({"id": 2, "method": "tools/call", "params": {"name": "none"}})
            assert body["error"]["data"]["reason"] == "bad_answer"


async def test_a_server_that_floods_a_stream_with_noise_leaves_the_others_their_turn_and_the_log_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    turns, damaged = 0, list[int]()

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def parsed(data: bytes, *, client: bool) -> Any:
        if data == b"noise":
            damaged.append(turns)
        return parse(data, client=client)

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        if message["method"] != "tools/call":
            await modern_server(request, responder, message)
            return
        await responder.start(200, STREAM)
        responder.send(b"data: noise\n\n" * 2000 + event({"jsonrpc": "2.0", "id": message["id"], "result": {}}))
        await responder.end()

    monkeypatch.setattr(upstream, "parse", parsed)
    async with world(serve) as client:
        other = asyncio.ensure_future(turning())
        answered, _, _ = await client.modern(1, "tools/call", {"name": "t"})
        other.cancel()
    assert answered == 200 and len(damaged) == 2000
    assert max(damaged.count(turn) for turn in damaged) <= 2 * upstream.AT_ONCE
    assert capsys.readouterr().err.count("damaged message on a stream") == 1


@pytest.mark.parametrize("status", [401, 403])
async def test_a_server_that_refuses_our_credentials_is_no_reason_to_try_again(status: int) -> None:
    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        await responder.respond(status, [("www-authenticate", 'Bearer realm="x"')], b"no")

    async with world(serve) as client:
        answered, headers, body = await client.modern(1, "tools/call", {"name": "t"})
    data = body["error"]["data"]
    assert (answered, data["reason"], data["retryable"], data["status"]) == (502, "backend_refused", False, status)
    assert (data["server"], data["protocol"], data["request_id"]) == ("s", "http", headers["x-request-id"])
    assert body["error"]["message"].count("server 's'") == 1
    assert "www-authenticate" not in headers, "our client did nothing wrong"


async def test_the_message_names_a_server_that_nobody_answers_for() -> None:
    async with in_front_of("http://127.0.0.1:1") as client:
        _, _, body = await client.modern(1, "tools/call", {"name": "t"})
    assert body["error"]["message"] == "http: connection refused (server 's')"


async def test_of_calls_that_meet_the_end_of_a_session_together_every_one_is_sent_again_on_the_next() -> None:
    sessions: list[str] = []
    both = asyncio.Event()
    waiting = 0

    async def serve(request: HttpRequest, responder: Responder, message: Any) -> None:
        nonlocal waiting
        if request.method in ("GET", "DELETE"):
            await responder.respond(405)
        elif "id" not in message:
            await responder.respond(202)
        elif message["method"] == "initialize":
            sessions.append(f"s{len(sessions)}")
            await responder.respond(200, [*JSON, ("mcp-session-id", sessions[-1])], result(message["id"], HELLO))
        elif request.headers.get("mcp-session-id") == "s0":
            waiting += 1
            if waiting == 3:
                both.set()
            await both.wait()
            error = {"code": -32001, "message": "Session not found"}
            await responder.respond(404, JSON, json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode())
        else:
            await responder.respond(200, JSON, result(message["id"], {"ok": True}))

    async with world(serve) as client:
        await client.initialize(roots={})
        calls = [client.post({"id": id, "method": "tools/call", "params": {"name": "t"}}) for id in (1, 2, 3)]
        answers = await asyncio.wait_for(asyncio.gather(*calls), 5)
    assert [body.get("result") for _, _, body in answers] == [{"ok": True}] * 3


async def test_lines_of_json_are_an_answer_and_what_came_before_it() -> None:
    async def serve(_request: HttpRequest, responder: Responder, message: Any) -> None:
        if message["method"] != "tools/call":
            await modern_server(_request, responder, message)
            return
        token = message["params"]["_meta"]["progressToken"]
        params = {"progressToken": token, "progress": 1}
        news = {"jsonrpc": "2.0", "method": "notifications/progress", "params": params}
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": {"resultType": "complete", "content": []}}
        body = b"\n".join(json.dumps(one).encode() for one in (news, answer)) + b"\n\n"
        await responder.respond(200, [("content-type", "application/x-ndjson; charset=utf-8")], body)

    async with world(serve) as client:
        params = {"name": "t", "_meta": {**META, "progressToken": "mine"}}
        headers = {"mcp_protocol_version": VERSION, "mcp_method": "tools/call", "mcp_name": "t"}
        _, _, said = await client.post({"id": 1, "method": "tools/call", "params": params}, **headers)
    assert [message.get("params", {}).get("progressToken") for message in said] == ["mine", None]
    assert said[-1]["result"]["content"] == []


@pytest.mark.parametrize("body", [b"", b"\n\n", b"{}\n", b'{"jsonrpc":"2.0","id":99999,"result":{}}\n', b"no json\n"])
async def test_lines_without_the_answer_are_the_servers_fault(body: bytes) -> None:
    async def serve(_request: HttpRequest, responder: Responder, message: Any) -> None:
        if message["method"] != "tools/call":
            await modern_server(_request, responder, message)
            return
        await responder.respond(200, [("content-type", "application/x-ndjson")], body)

    async with world(serve) as client:
        _, _, said = await client.modern(1, "tools/call", {"name": "t"})
    assert said["error"]["data"]["reason"] == "bad_answer"
