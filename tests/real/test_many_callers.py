"""Many clients that all count their request ids from 1: every answer reaches the caller whose payload it carries."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from tests.support import peers, raw
from tests.support.counts import count

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
CLIENTS = 50
SHUFFLE = [sys.executable, str(peers.HERE / "awkward_server.py"), "shuffle"]
TIME_LIMIT = 240.0  # seconds for all calls together; 10,000 take under a minute


def payload(client: int, id: int) -> dict[str, Any]:
    """Unique per call, with the integer and the text that bridges like to damage."""
    return {"client": client, "id": id, "big": 9007199254740993 + id, "text": f"ä\u2028{client}/{id}"}


def check(answer: dict[str, Any], client: int, id: int) -> None:
    assert answer.get("id") == id and type(answer["id"]) is int, answer
    assert "result" in answer, answer
    assert json.loads(answer["result"]["content"][0]["text"]) == payload(client, id), (client, id, answer)


async def call_many(url: str, eras: tuple[str, ...]) -> int:
    """All clients at once, each on its own connection and session; returns the number of checked answers."""
    each = -(-count("mixed_calls") // CLIENTS)

    async def one(client: int) -> int:
        http = raw.HttpClient(url)
        era = eras[client % len(eras)]
        try:
            if era == "legacy":
                await http.open_legacy()
            call = http.call_legacy if era == "legacy" else http.call_modern
            for id in range(1, each + 1):
                check(await call(id, "echo", {"payload": payload(client, id)}), client, id)
        finally:
            await http.close()
        return each

    async with asyncio.timeout(TIME_LIMIT):
        return sum(await asyncio.gather(*(one(client) for client in range(CLIENTS))))


@pytest.mark.parametrize("eras", [("legacy",), ("modern",), ("legacy", "modern")], ids="-".join)
async def test_calls_of_fifty_clients_with_equal_ids_to_a_stdio_server_are_not_mixed_up(eras: tuple[str, ...]) -> None:
    with peers.gateway({"shuffle": SHUFFLE}, MCPBRIDGE_SERVER__MAX_CONNECTIONS_PER_IP="200") as bridge:
        assert await call_many(bridge.url("shuffle"), eras) >= count("mixed_calls")


@pytest.mark.parametrize("eras", [("legacy",), ("modern",), ("legacy", "modern")], ids="-".join)
async def test_calls_of_fifty_clients_with_equal_ids_to_an_http_server_are_not_mixed_up(
    eras: tuple[str, ...], dual_url: str
) -> None:
    with peers.gateway({"dual": dual_url}, MCPBRIDGE_SERVER__MAX_CONNECTIONS_PER_IP="200") as bridge:
        assert await call_many(bridge.url("dual"), eras) >= count("mixed_calls")


async def call_over_router(command: list[str], client: int, each: int) -> None:
    """One stdio client that has up to 100 calls in flight through its router."""
    async with raw.child(command) as router:
        await router.open_legacy()
        for first in range(1, each + 1, 100):
            ids = range(first, min(first + 100, each + 1))
            for id in ids:
                router.send(raw.request(id, "tools/call", name="echo", arguments={"payload": payload(client, id)}))
            for id in ids:
                check(await router.answer(id, timeout=60), client, id)
        assert router.noise == []


async def test_pipelined_calls_through_the_router_come_back_under_their_ids() -> None:
    async with asyncio.timeout(TIME_LIMIT):
        await call_over_router(peers.router("--", *SHUFFLE), 1, count("mixed_calls") // 2)


async def test_calls_of_several_routers_at_one_gateway_are_not_mixed_up() -> None:
    each = count("mixed_calls") // 20
    with peers.gateway({"shuffle": SHUFFLE}) as bridge:  # 6 x 100 calls in flight, and 100 connections for all of them
        command = peers.router(bridge.url("shuffle"))
        async with asyncio.timeout(TIME_LIMIT):
            await asyncio.gather(*(call_over_router(command, client, each) for client in range(6)))


@pytest.mark.requirement("config.router.gateway.connection.pool.max_size")
async def test_calls_to_the_gateway_wait_for_one_of_its_connections() -> None:
    running, most, go = 0, 0, asyncio.Event()

    async def slow(request: HttpRequest, responder: Responder) -> None:
        nonlocal running, most
        message = json.loads(request.body or b"{}")
        answer: dict[str, object] = {"jsonrpc": "2.0", "id": message.get("id"), "result": {"content": []}}
        if message.get("method") == "server/discover":
            answer = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no"}}
        elif message.get("method") == "initialize":
            info = {"name": "slow", "version": "1"}
            answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
        elif message.get("method") == "tools/call":
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
        if "id" in message:
            await responder.respond(200, [("content-type", "application/json")], json.dumps(answer).encode())
        else:
            await responder.respond(202 if message else 405)

    server = HttpServer(slow)
    host, port = await server.start("127.0.0.1", 0)
    settings = {"MCP_GATEWAY_URL": f"http://{host}:{port}/mcp", "MCPBRIDGE_GATEWAY__CONNECTION__POOL__MAX_SIZE": "3"}
    try:
        async with asyncio.timeout(30), raw.child(peers.router(), **settings) as router:
            await router.open_legacy()
            for id in range(100, 120):
                router.send(raw.request(id, "tools/call", name="slow", arguments={}))
            while running < 3:
                await asyncio.sleep(0.01)
            go.set()
            answers = [await router.answer(id) for id in range(100, 120)]
        assert [answer.get("result") for answer in answers] == [{"content": []}] * 20
        assert most == 3
    finally:
        await server.close()
