"""The demo server as a process, over our own stdio transport."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest

from mcpbridge.transports.stdio import guard
from mcpbridge.transports.stdio.child import spawn
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, NEWEST_MODERN, PROTOCOL_VERSION

META = {PROTOCOL_VERSION: NEWEST_MODERN, CLIENT_CAPABILITIES: {}}


class Client:
    def __init__(self, child):
        self.child = child
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.closed = asyncio.Event()
        child.start(lambda raw: self.messages.put_nowait(msgspec.json.decode(raw)), lambda cause: self.closed.set())

    def send(self, method, params=None, id=None):
        message = {"jsonrpc": "2.0", "method": method} | ({"id": id} if id else {}) | ({"params": params} if params else {})
        self.child.send(msgspec.json.encode(message))

    async def next(self):
        async with asyncio.timeout(5):
            return await self.messages.get()

    async def ask(self, method, params=None, id=1):
        self.send(method, params, id)
        return await self.next()


@pytest.fixture
async def client():
    command = [sys.executable, "-m", "mcpbridge.demo.stdio", "--name", "weather"]
    child = await spawn(command, env={}, cwd=None, name="weather", max_message=1 << 20, on_stderr=print)
    yield Client(child)
    await child.close()
    await guard.close()


async def test_a_legacy_conversation_with_changes_and_cancellation(client):
    answer = await client.ask("initialize", {"protocolVersion": "2025-11-25", "capabilities": {}})
    assert answer["result"]["serverInfo"]["name"] == "weather"
    client.send("notifications/initialized")
    client.send("tools/call", {"name": "toggle"}, 2)
    assert {(await client.next()).get("method", "answer") for _ in "ab"} == {"notifications/tools/list_changed", "answer"}
    client.send("tools/call", {"name": "sleep", "arguments": {"seconds": 60}}, 3)
    client.send("notifications/cancelled", {"requestId": 3})
    assert await client.ask("ping", id=4) == {"jsonrpc": "2.0", "id": 4, "result": {}}


async def test_a_modern_conversation_with_a_listener(client):
    assert (await client.ask("server/discover", {"_meta": META}))["result"]["supportedVersions"] == [NEWEST_MODERN]
    ack = await client.ask("subscriptions/listen", {"_meta": META, "notifications": {"toolsListChanged": True}}, 2)
    assert ack["method"] == "notifications/subscriptions/acknowledged"
    client.send("tools/call", {"name": "toggle", "_meta": META}, 3)
    assert (await client.next())["method"] == "notifications/tools/list_changed"
    assert (await client.next())["id"] == 3


async def test_nonsense_is_answered_and_the_conversation_goes_on(client):
    client.child.send(b"nonsense")
    assert (await client.next())["error"]["code"] == -32700
    assert (await client.ask("no/such"))["error"]["code"] == -32601


def test_what_was_asked_before_the_end_of_stdin_is_answered():
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "sleep", "arguments": {"seconds": 0.2}}}
    command = [sys.executable, "-m", "mcpbridge.demo.stdio"]
    done = subprocess.run(command, input=msgspec.json.encode(call), capture_output=True, timeout=10, check=True)
    assert msgspec.json.decode(done.stdout)["result"]["content"][0]["text"] == "slept 0.2 s"
