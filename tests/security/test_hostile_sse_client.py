"""Clients that mean harm at the HTTP+SSE face of the real gateway: other people's streams, names, origins, floods."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mcpbridge.wire.sse import SseParser
from tests.security.test_hostile_http_client import ALICE, BOB, READER, Gateway, gateway, reason
from tests.support import peers
from tests.support.raw import initialize, request

__all__ = ["gateway"]

pytestmark = pytest.mark.security


class Stream:
    """An open stream and the endpoint it named."""

    def __init__(self, reader: asyncio.StreamReader, head: str) -> None:
        self.reader = reader
        self.head = head
        self.endpoint = ""
        self._parser = SseParser()
        self._events: list[Any] = []

    async def data(self) -> bytes:
        while not self._events:
            piece = await self.reader.read(65536)
            if not piece:
                raise EOFError
            self._events += self._parser.feed(piece)
        return bytes(self._events.pop(0).data)

    async def message(self) -> Any:
        return json.loads(await self.data())


@asynccontextmanager
async def stream(
    gateway: Gateway, target: str = "/events", token: str = ALICE, host: str = "", *fields: str
) -> AsyncIterator[Stream]:
    async with gateway.connection() as (reader, writer):
        lines = [f"GET {target} HTTP/1.0", f"Host: {host or f'127.0.0.1:{gateway.port}'}", "Accept: text/event-stream", *fields]
        writer.write("\r\n".join([*lines, f"Authorization: Bearer {token}", "", ""]).encode())
        one = Stream(reader, (await reader.readuntil(b"\r\n\r\n")).decode())
        if one.head.startswith("HTTP/1.1 200"):
            one.endpoint = (await one.data()).decode()
        yield one


@pytest.mark.requirement("http.gateway.events")
@pytest.mark.parametrize("target", ["/events", "/sse", "/events/echo", "/sse/echo"])
async def test_a_stream_of_everything_or_of_one_server_is_a_session_over_post(gateway: Gateway, target: str) -> None:
    async with stream(gateway, target) as mine:
        assert mine.endpoint.startswith("/events/messages?session=")
        assert (await gateway.ask(mine.endpoint, initialize()))[0] == 202
        assert (await mine.message())["result"]["protocolVersion"] == "2025-11-25"
        assert (await gateway.ask(mine.endpoint, request(2, "tools/call", name="echo")))[0] == 202
        assert (await mine.message())["result"]["content"][0]["text"] == "called"


@pytest.mark.parametrize(
    "target", ["/events/nobody", "/events/", "/events/echo/", "/events/messages", "/eventsx", "/sse/%65cho"]
)
async def test_no_stream_opens_below_another_name(gateway: Gateway, target: str) -> None:
    async with stream(gateway, target) as none:
        assert none.head.startswith("HTTP/1.1 404")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("host", "field", "status"),
    [("evil.example", "X: 1", 421), ("", "Origin: http://evil.example", 403), ("", "Origin: null", 403)],
)
async def test_host_and_origin_are_checked_on_the_stream_and_on_every_post(
    gateway: Gateway, method: str, host: str, field: str, status: int
) -> None:
    async with stream(gateway) as mine:
        if method == "GET":
            async with stream(gateway, "/events", ALICE, host, field) as none:
                assert none.head.startswith(f"HTTP/1.1 {status}")
        else:
            assert (await gateway.ask(mine.endpoint, initialize(), host=host or None, fields=(field,)))[0] == status


async def test_a_stream_of_somebody_else_is_as_unknown_as_one_that_never_was(gateway: Gateway) -> None:
    async with stream(gateway) as mine, stream(gateway, token=BOB):
        outcomes = set()
        other = mine.endpoint[:-1] + ("A" if mine.endpoint[-1] != "A" else "B")
        for endpoint in (mine.endpoint, other, "/events/messages", "/events/messages?session="):
            status, _headers, said = await gateway.ask(endpoint, request(1, "ping"), token=BOB, fields=("X-Request-Id: same",))
            outcomes.add((status, said))
            assert (status, reason(said)) == (404, "session_unknown")
        assert len(outcomes) == 1
        assert (await gateway.ask(mine.endpoint, initialize()))[0] == 202
        assert "result" in await mine.message()


async def test_a_token_counts_in_its_own_field_alone(gateway: Gateway) -> None:
    for target in (f"/events?token={ALICE}", f"/events?access_token={ALICE}"):
        async with stream(gateway, target, "nobody-0123456789abcdef") as none:
            assert none.head.startswith("HTTP/1.1 401") and ALICE not in none.head
    async with stream(gateway) as mine:
        status, headers, said = await gateway.ask(mine.endpoint + f"&access_token={ALICE}", initialize(), token=None)
        assert (status, reason(said)) == (401, "unauthorized") and headers["www-authenticate"].startswith("Bearer")


async def test_a_reader_calls_nothing_though_its_session_may_list(gateway: Gateway) -> None:
    async with stream(gateway, token=READER) as mine:
        await gateway.ask(mine.endpoint, initialize(), token=READER)
        await mine.message()
        await gateway.ask(mine.endpoint, request(2, "tools/call", name="echo"), token=READER)
        assert (await mine.message())["error"]["data"]["reason"] == "forbidden"
        await gateway.ask(mine.endpoint, request(3, "tools/list"), token=READER)
        assert len((await mine.message())["result"]["tools"]) == 1


async def test_a_flood_of_calls_is_answered_or_refused_and_the_session_lives(gateway: Gateway) -> None:
    async with stream(gateway) as mine, gateway.connection() as (_reader, writer):
        await gateway.ask(mine.endpoint, initialize())
        await mine.message()
        for id in range(2, 1002):  # one connection, pipelined
            body = json.dumps(request(id, "tools/call", name="echo"))
            lines = [f"POST {mine.endpoint} HTTP/1.1", f"Host: 127.0.0.1:{gateway.port}", f"Authorization: Bearer {ALICE}"]
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", body]
            writer.write("\r\n".join(lines).encode())
        seen = {(await mine.message())["id"] for _ in range(1000)}
        assert seen == set(range(2, 1002))


@pytest.mark.requirement("config.gateway.server.protocols.sse.enabled")
def test_without_the_protocol_its_paths_do_not_exist() -> None:
    with peers.gateway({}, MCPBRIDGE_SERVER__PROTOCOLS__SSE__ENABLED="false") as bridge:
        for path in ("/events", "/sse", "/events/messages"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(bridge.base + path, timeout=5)
            refused.value.close()
            assert refused.value.code == 404


@pytest.mark.requirement("config.gateway.server.protocols.sse.path")
def test_the_path_of_the_stream_is_that_of_the_configuration() -> None:
    with peers.gateway({}, MCPBRIDGE_SERVER__PROTOCOLS__SSE__PATH="/old/stream") as bridge:
        with urllib.request.urlopen(f"{bridge.base}/old/stream", timeout=5) as answer:
            assert answer.readline() == b"event: endpoint\n"
            assert answer.readline().startswith(b"data: /old/stream/messages?session=")
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{bridge.base}/events", timeout=5)
        refused.value.close()
        assert refused.value.code == 404


@pytest.mark.requirement("config.gateway.backends.sse.enabled")
def test_a_server_of_the_protocol_is_left_out_when_it_is_switched_off() -> None:
    with peers.gateway({"old": "sse://127.0.0.1:1/sse"}, MCP_GATEWAY_SSE_BACKENDS="false") as bridge:
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{bridge.base}/events/old", timeout=5)
        refused.value.close()
        assert refused.value.code == 404 and "server left out: its protocol is switched off" in bridge.errors()
