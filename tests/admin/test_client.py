"""The client of the status document: addresses, answers, streams and everything that can go wrong on the way."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mcpbridge.admin.client import Unreachable, fetch, watch
from mcpbridge.observe.snapshot import Sessions, Snapshot, encode

SNAPSHOT = Snapshot(
    role="gateway",
    sequence=1,
    time="2026-11-23T14:00:00.000Z",
    instance="gw-0",
    version="0.1.0",
    uptime_sec=1.0,
    status="ok",
    healthy=True,
    protocols=(),
    backends=(),
    sessions=Sessions("memory", 0, True),
)


@asynccontextmanager
async def server(answer: bytes, *, hold: bool = False) -> AsyncIterator[tuple[str, list[str]]]:
    """A peer that reads one request head, writes ``answer`` and closes (or holds the connection open)."""
    heads: list[str] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer)
        if hold:
            await done.wait()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", heads
    finally:
        done.set()
        listener.close()


def http(
    body: bytes, status: str = "200 OK", kind: str = "application/json; charset=utf-8", length: int | None = None
) -> bytes:
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n".encode() + body


def sse(*documents: bytes, end: bytes = b"") -> bytes:
    body = b"".join(b"data: " + document + b"\n\n" for document in documents)
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body + end


async def test_one_status_is_fetched_with_the_token():
    async with server(http(encode(SNAPSHOT) + b"\n")) as (url, heads):
        assert await fetch(url, "secret-token") == SNAPSHOT
    assert heads[0].startswith("GET /api/v1/status HTTP/1.1\r\n")
    assert "Authorization: Bearer secret-token\r\n" in heads[0]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/", "/api/v1/status"),
        ("/mcp", "/api/v1/status"),
        ("/api/v1/status", "/api/v1/status"),
        ("/prefix/", "/prefix/api/v1/status"),
    ],
)
async def test_any_endpoint_of_the_bridge_will_do(path, asked):
    async with server(http(encode(SNAPSHOT))) as (url, heads):
        await fetch(url + path)
    assert heads[0].startswith(f"GET {asked} HTTP/1.1\r\n")
    assert "Authorization" not in heads[0]


async def test_the_schemes_of_websockets_and_none_mean_http():
    async with server(http(encode(SNAPSHOT))) as (url, heads):
        await fetch(url.replace("http://", "ws://"))
        await fetch(url.removeprefix("http://"))
    assert len(heads) == 2


async def test_a_user_name_in_the_address_is_not_sent():
    async with server(http(encode(SNAPSHOT))) as (url, heads):
        await fetch(url.replace("http://", "http://user:pass@"))
    assert "Authorization" not in heads[0]


@pytest.mark.parametrize(
    "url",
    ["", "ftp://localhost", "http://", "http://localhost:port", "http://localhost:0", "http://[::1", "stdio:///tmp/x.sock"],
)
async def test_what_is_no_address_is_said_so(url):
    with pytest.raises(Unreachable, match="address"):
        await fetch(url)


async def test_nobody_listens():
    async with server(b"") as (url, _):
        pass
    with pytest.raises(Unreachable, match="connection refused") as error:
        await fetch(url)
    assert error.value.kind == "unreachable" and error.value.reason == str(error.value)


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (http(b"{}", "401 Unauthorized"), "refused", "does not accept this token"),
        (http(b"{}", "403 Forbidden"), "refused", "does not let this caller"),
        (http(b"{}", "404 Not Found"), "not_a_bridge", "HTTP 404"),
        (http(b"", "302 Found\r\nLocation: http://127.0.0.1:1/"), "not_a_bridge", "HTTP 302"),
        (http(b"<html>", kind="text/html"), "not_a_bridge", "text/html"),
        (http(b"not json"), "not_a_bridge", "no status"),
        (http(b"{}"), "not_a_bridge", "no status"),
        (http(b"\xff\xfe"), "not_a_bridge", "no status"),
        (http(b'{"schema":"mcpbridge.status/v2"}'), "not_a_bridge", "no status"),
        (http(b" " * (5 * 1024 * 1024)), "unreachable", "more than"),
        (http(b"{", length=100), "unreachable", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unreachable", "does not answer in HTTP"),
        (b"", "unreachable", "closed the connection"),
    ],
)
async def test_other_answers_are_named(answer, kind, text):
    async with server(answer) as (url, _):
        with pytest.raises(Unreachable, match=text) as error:
            await fetch(url, "secret-token")
    assert error.value.kind == kind
    assert "secret-token" not in str(error.value)


async def test_a_peer_that_says_nothing_is_given_up():
    async with server(b"", hold=True) as (url, _):
        with pytest.raises(Unreachable, match="no answer"):
            await fetch(url, timeout=0.05)


@pytest.mark.parametrize("token", ["a b", "a\r\nX: 1", "tökén", "\x00"])
async def test_a_token_that_would_forge_a_header_is_not_sent(token):
    with pytest.raises(Unreachable, match="token") as error:
        await fetch("http://127.0.0.1:1", token)
    assert error.value.kind == "refused"


async def test_watching_gives_every_snapshot_and_ends_with_the_stream():
    later = encode(SNAPSHOT).replace(b'"sequence":1', b'"sequence":2')
    async with server(sse(encode(SNAPSHOT), later, end=b": bye\n\n")) as (url, heads):
        seen = [snapshot.sequence async for snapshot in watch(url, "secret-token", 0.5)]
    assert seen == [1, 2]
    assert heads[0].startswith("GET /api/v1/status/stream?interval=0.5 HTTP/1.1\r\n")
    assert "Authorization: Bearer secret-token\r\n" in heads[0]


@pytest.mark.parametrize(("interval", "asked"), [(0.0, "0.25"), (1.0, "1"), (1000.0, "60")])
async def test_the_interval_stays_within_what_the_bridge_allows(interval, asked):
    async with server(sse(encode(SNAPSHOT))) as (url, heads):
        assert len([s async for s in watch(url, interval=interval)]) == 1
    assert f"interval={asked} " in heads[0]


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(http(b"{}", "401 Unauthorized"), "refused"), (http(encode(SNAPSHOT)), "not_a_bridge"), (sse(b"{}"), "not_a_bridge")],
)
async def test_a_stream_that_is_none_is_named(answer, kind):
    async with server(answer) as (url, _):
        with pytest.raises(Unreachable) as error:
            await anext(watch(url))
    assert error.value.kind == kind


async def test_an_endless_event_is_refused():
    async with server(sse(b"x" * (5 * 1024 * 1024))) as (url, _):
        with pytest.raises(Unreachable, match="too large"):
            await anext(watch(url))


async def test_leaving_a_stream_closes_its_connection():
    async with server(sse(encode(SNAPSHOT)), hold=True) as (url, _):
        stream = watch(url)
        assert await anext(stream) == SNAPSHOT
        async with asyncio.timeout(5):
            await stream.aclose()  # type: ignore[attr-defined]


def test_importing_the_client_does_not_import_aiohttp():
    code = "import sys, mcpbridge.admin.client; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
