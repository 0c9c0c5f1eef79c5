"""Control-plane requests through a proxy: asked as it expects, and named when it refuses."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mcpbridge import outbound

Play = Callable[[str], bytes]


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[Play], Awaitable[str]]]:
    """``await proxy(play)``: a proxy of the environment, with a login, that answers each head as ``play`` says."""
    servers: list[asyncio.AbstractServer] = []

    async def start(play: Play) -> str:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(play((await reader.readuntil(b"\r\n\r\n")).decode()))
            writer.close()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        servers.append(server)
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        monkeypatch.setenv("ALL_PROXY", f"http://me:secret@{place}")
        return place

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize(("url", "line"), [("http://a.example/x", "GET http://a.example/x"), ("https://a.example", "CONNECT")])
async def test_the_proxy_is_asked_with_the_login_and_named_without_it(bounded, proxy, url, line):
    seen: list[str] = []

    def play(head: str) -> bytes:
        seen.append(head)
        return b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"

    place = await proxy(play)
    with pytest.raises(outbound.OutboundError) as error:
        await bounded(outbound.get(url))
    assert str(error.value).startswith(f"the proxy {place} answered HTTP 407") and "secret" not in str(error.value)
    login = base64.b64encode(b"me:secret").decode()
    assert seen[0].startswith(line) and f"Proxy-Authorization: Basic {login}\r\n" in seen[0]


async def test_an_answer_comes_through_the_proxy(bounded, proxy):
    await proxy(lambda _head: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")
    assert (await bounded(outbound.get("http://a.example/x")))[:3] == (200, "text/plain", b"ok")


async def test_a_proxy_that_is_not_there_or_of_another_kind_is_named(bounded, monkeypatch, free_port):
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{free_port}")
    with pytest.raises(outbound.OutboundError, match=f"the proxy 127.0.0.1:{free_port} is not reached"):
        await bounded(outbound.get("https://a.example/x"))
    monkeypatch.setenv("https_proxy", "socks5://me:secret@127.0.0.1:1080")
    with pytest.raises(outbound.OutboundError, match="HTTPS_PROXY names a proxy of kind 'socks5'"):
        await bounded(outbound.get("https://a.example/x"))


async def test_this_machine_is_asked_without_a_proxy(bounded, proxy, free_port):
    def play(_head: str) -> bytes:
        raise AssertionError("the proxy was asked for this machine")

    await proxy(play)
    for host in ("localhost", "127.0.0.1", "[::1]"):
        with pytest.raises(outbound.OutboundError, match=r"connection refused|cannot assign"):
            await bounded(outbound.get(f"http://{host}:{free_port}/"))
