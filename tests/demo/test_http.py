"""The demo server over HTTP, against a client of the standard library."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
from urllib.parse import urlsplit

import msgspec
import pytest

from mcpbridge.demo.http import DemoHttp
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, NEWEST_MODERN, PROTOCOL_VERSION
from mcpbridge.wire.sse import SseParser

META = {PROTOCOL_VERSION: NEWEST_MODERN, CLIENT_CAPABILITIES: {}}


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.session = response.getheader("mcp-session-id")
        self.body = body
        self.is_stream = response.getheader("content-type") == "text/event-stream"

    def messages(self):
        if self.is_stream:
            return [msgspec.json.decode(event.data) for event in SseParser().feed(self.body)]
        return [msgspec.json.decode(self.body)]

    @property
    def message(self):
        return self.messages()[-1]


class Client:
    def __init__(self, port):
        self.port = port

    async def send(self, verb="POST", value=None, path="/mcp", **headers):
        def blocking():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            connection.request(verb, path, None if value is None else msgspec.json.encode(value), named)
            response = connection.getresponse()
            try:
                return Answer(response, response.read())
            finally:
                connection.close()

        return await asyncio.to_thread(blocking)

    async def legacy(self, method, params=None, session="", id=1):
        message = {"jsonrpc": "2.0", "method": method} | ({"id": id} if id else {}) | ({"params": params} if params else {})
        return await self.send(value=message, **({"mcp_session_id": session} if session else {}))

    async def modern(self, method, params=None, meta=META, **headers):
        name = {"mcp_name": params["name"]} if params and "name" in params else {}
        fixed = {"mcp_protocol_version": NEWEST_MODERN, "mcp_method": method, **name} | headers
        return await self.send(
            value={"jsonrpc": "2.0", "id": 1, "method": method, "params": {**(params or {}), "_meta": meta}}, **fixed
        )

    async def session(self):
        answer = await self.legacy("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
        assert answer.message["result"]["protocolVersion"] == "2025-11-25"
        assert (await self.legacy("notifications/initialized", session=answer.session, id=None)).status == 202
        return answer.session


@pytest.fixture
async def client():
    demo = DemoHttp("weather")
    yield Client(await demo.start())
    await demo.close()


async def test_a_legacy_session_from_initialize_to_its_end(client):
    session = await client.session()
    answer = await client.legacy("tools/call", {"name": "echo", "arguments": {"text": "hi"}}, session)
    assert (answer.status, answer.message["result"]["content"][0]["text"]) == (200, "hi")
    assert (await client.send("DELETE", mcp_session_id=session)).status == 200
    assert (await client.legacy("ping", session=session)).status == 404
    assert (await client.legacy("ping")).status == 400


async def test_a_modern_request_stands_alone(client):
    answer = await client.modern("server/discover")
    assert (answer.status, answer.session, answer.message["result"]["resultType"]) == (200, None, "complete")
    answer = await client.modern("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    assert answer.message["result"]["structuredContent"] == {"sum": 3}


async def test_progress_makes_the_answer_a_stream(client):
    answer = await client.modern(
        "tools/call", {"name": "sleep", "arguments": {"seconds": 0, "steps": 2}}, META | {"progressToken": 5}
    )
    assert answer.is_stream
    assert [message.get("method", "answer") for message in answer.messages()] == ["notifications/progress"] * 2 + ["answer"]


@pytest.mark.parametrize(
    ("headers", "meta", "status", "code"),
    [
        ({}, {PROTOCOL_VERSION: NEWEST_MODERN}, 400, -32602),
        ({"mcp_method": "tools/call"}, META, 400, -32020),
        ({"mcp_protocol_version": "2030-01-01"}, META | {PROTOCOL_VERSION: "2030-01-01"}, 400, -32022),
    ],
)
async def test_modern_refusals_have_their_status_and_code(client, headers, meta, status, code):
    answer = await client.modern("tools/list", None, meta, **headers)
    assert (answer.status, answer.message["error"]["code"], answer.message["id"]) == (status, code, 1)


async def test_unknown_methods_are_404_for_modern_and_200_for_legacy_clients(client):
    answer = await client.modern("no/such")
    assert (answer.status, answer.message["error"]["code"]) == (404, -32601)
    answer = await client.legacy("no/such", session=await client.session())
    assert (answer.status, answer.message["error"]["code"]) == (200, -32601)


async def test_foreign_hosts_pages_paths_and_verbs_are_refused(client):
    assert (await client.modern("server/discover", host="evil.example")).status == 421
    assert (await client.modern("server/discover", origin="http://evil.example")).status == 403
    assert (await client.send(path="/other", value={})).status == 404
    assert (await client.send("GET")).status == 405


async def test_nonsense_and_batches_are_refused(client):
    assert (await client.send(value=[{"jsonrpc": "2.0", "id": 1, "method": "ping"}])).message["error"]["code"] == -32600
    assert (await client.send(value={"no": "message"})).status == 400


async def test_a_cancelled_legacy_call_says_nothing_more(client):
    session = await client.session()
    call = client.legacy("tools/call", {"name": "sleep", "arguments": {"seconds": 60}}, session, id=7)
    calling = asyncio.ensure_future(call)
    while not calling.done():
        await client.legacy("notifications/cancelled", {"requestId": 7}, session, id=None)
        await asyncio.sleep(0)
    assert (calling.result().status, calling.result().body) == (202, b"")


async def test_the_stream_of_a_legacy_session_carries_what_belongs_to_no_call(client):
    session = await client.session()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(f"GET /mcp HTTP/1.1\r\nhost: localhost\r\nmcp-session-id: {session}\r\n\r\n".encode())
    async with asyncio.timeout(5):
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        await client.legacy("tools/call", {"name": "toggle"}, session)
        assert b"notifications/tools/list_changed" in await reader.readuntil(b"\n\n")
    writer.close()
    await writer.wait_closed()


def test_the_command_prints_its_address_first_and_ends_on_sigterm():
    with subprocess.Popen([sys.executable, "-m", "mcpbridge.demo.http", "--port", "0"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().decode().strip())
        assert (url.scheme, url.hostname, url.path) == ("http", "127.0.0.1", "/mcp")
        connection = http.client.HTTPConnection("127.0.0.1", url.port or 0, timeout=5)
        connection.request("GET", "/mcp")
        assert connection.getresponse().status == 405
        connection.close()
        process.terminate()
        assert process.wait(5) == 0
