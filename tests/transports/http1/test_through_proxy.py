"""Through a proxy: what it is asked, and what every way of refusing becomes."""

from __future__ import annotations

import asyncio
import base64

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports import proxy as tunnels
from mcpbridge.transports.proxy import MAX_REPLY, Route, open_socket
from tests.support.http_call import fetch
from tests.transports.http1.conftest import read_request

LOGIN = "Basic " + base64.b64encode(b"me:secret").decode()


def at(script, authorization: str = "") -> Proxy:
    return Proxy("127.0.0.1", int(script.url.rpartition(":")[2]), authorization)


def connecting(seen: list[str], server_port: int):
    """The play of a proxy that tunnels everything to one port."""

    async def play(reader, writer, number):
        seen.append((await reader.readuntil(b"\r\n\r\n")).decode())
        inner, outer = await asyncio.open_connection("127.0.0.1", server_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\nContent-Length: 99\r\n\r\n")

        async def pump(source, sink):
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, outer), pump(inner, writer))

    return play


async def test_an_https_server_is_reached_by_a_tunnel_and_sees_nothing_of_the_login(scripted, serve, pool, tls):
    server = await serve(ssl=tls.server)
    seen: list[str] = []
    script = await scripted(connecting(seen, server.port))
    one = pool(f"https://localhost:{server.port}", ssl=tls.client, proxy=at(script, LOGIN))
    assert await fetch(one, target="/a", body=b"b") == b"b"
    assert await fetch(one, target="/a", body=b"c") == b"c"
    assert seen == [
        f"CONNECT localhost:{server.port} HTTP/1.1\r\nHost: localhost:{server.port}\r\nProxy-Authorization: {LOGIN}\r\n\r\n"
    ]
    assert all("proxy-authorization" not in request.headers for request in server.seen)
    await one.close()


async def test_the_certificate_is_checked_inside_the_tunnel_and_the_error_names_the_proxy(scripted, serve, pool, tls):
    server = await serve(ssl=tls.server)
    script = await scripted(connecting([], server.port))
    one = pool(f"https://localhost:{server.port}", ssl=tls.stranger, proxy=at(script))
    with pytest.raises(BridgeError) as error:
        await fetch(one)
    assert "TLS certificate refused" in str(error.value) and f"through the proxy {at(script)}" in str(error.value)


async def test_an_http_server_is_asked_for_by_its_whole_url_and_the_connection_to_the_proxy_is_kept(scripted, pool):
    seen: list[str] = []

    async def play(reader, writer, number):
        while True:
            head, _ = await read_request(reader)
            seen.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    script = await scripted(play)
    one = pool("http://a.example:8080", proxy=at(script, LOGIN))
    assert [await fetch(one, target="/a?b=c", body=b"b") for _ in range(2)] == [b"ok", b"ok"]
    assert script.connections == 1
    line, host, login = seen[0].split("\r\n")[:3]
    assert line == "POST http://a.example:8080/a?b=c HTTP/1.1"
    assert (host, login) == ("host: a.example:8080", f"proxy-authorization: {LOGIN}")


REFUSALS = [
    (b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n", "answered HTTP 407", False),
    (b"HTTP/1.0 403 Filtered\r\nContent-Type: text/html\r\n\r\n<html>", "answered HTTP 403", False),
    (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "answered HTTP 502", True),
    (b"HTTP/1.1 100 Continue\r\n\r\n", "answered HTTP 100", False),
    (b"HTTP/1.1 200 OK\r\n\r\n\x00", "sent more than an answer", True),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "does not answer like a proxy", True),
    (b"HTTP/1.1 2000 OK\r\n\r\n", "does not answer like a proxy", True),
    (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "does not answer like a proxy", True),
    (b"HTTP/1.1 200 OK\r\nX: " + b"a" * MAX_REPLY, "does not answer like a proxy", True),
    (b"HTTP/1.1 200 OK\r\n", "closed the connection", True),
    (b"", "closed the connection", True),
]


@pytest.mark.parametrize(("reply", "words", "retryable"), REFUSALS)
async def test_a_proxy_that_refuses_or_talks_nonsense_is_named_without_its_login(scripted, reply, words, retryable):
    async def play(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)

    script = await scripted(play)
    proxy = at(script, LOGIN)
    with pytest.raises(BridgeError) as error:
        await open_socket("a.example", 443, proxy=proxy, timeout=5)
    failed = error.value
    assert failed.reason == "proxy_failed" and not failed.sent and words in str(failed) and str(proxy) in str(failed)
    assert failed.data.get("retryable", failed.fault.retryable) is retryable
    assert LOGIN not in repr(failed) and "secret" not in str(failed)


async def test_a_login_that_an_http_server_is_not_reached_without_is_the_proxys_error(scripted, pool):
    async def play(reader, writer, number):
        await read_request(reader)
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    script = await scripted(play)
    with pytest.raises(BridgeError, match="HTTP 407") as error:
        await fetch(pool("http://a.example", proxy=at(script)))
    assert error.value.reason == "proxy_failed" and not error.value.sent


async def test_a_proxy_that_hangs_is_given_up_in_time(scripted, monkeypatch):
    async def play(reader, writer, number):
        await reader.read()

    script = await scripted(play)
    with pytest.raises(BridgeError, match=f"through the proxy {at(script)}") as error:
        await open_socket("a.example", 443, proxy=at(script), timeout=0.05)
    assert error.value.reason == "timeout"
    monkeypatch.setattr(tunnels, "REPLY_TIME", 0.05)
    with pytest.raises(BridgeError, match="does not answer") as error:
        await open_socket("a.example", 443, proxy=at(script), timeout=5)
    assert error.value.reason == "proxy_failed"


async def test_a_proxy_that_is_not_there_or_cannot_be_used_is_named(free_port):
    for proxy, words in (
        (Proxy("127.0.0.1", free_port), f"127.0.0.1:{free_port} is not reached"),
        (Proxy("no-such-host.invalid", 1), "no-such-host.invalid:1 is not reached"),
        (Proxy("p", 1080, fault="ALL_PROXY names a proxy of kind 'socks5'"), "socks5"),
    ):
        with pytest.raises(BridgeError, match=words) as error:
            await open_socket("a.example", 443, proxy=proxy, timeout=5)
        assert error.value.reason == "proxy_failed" and not error.value.sent


async def test_an_answer_in_many_pieces_is_one_answer_and_what_follows_belongs_to_the_host(scripted):
    async def play(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        for byte in b"HTTP/1.0 200 Connection established\r\nProxy-agent: x\r\n\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        writer.write(b"!" + await reader.readexactly(1))

    script = await scripted(play)
    sock = await Route("2001:db8::1", 443, at(script)).open()
    with sock:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"?")
        async with asyncio.timeout(5):
            got = b""
            while len(got) < 2:
                got += await loop.sock_recv(sock, 2)
    assert got == b"!?"


async def test_without_a_proxy_the_socket_is_the_hosts(serve, free_port):
    server = await serve()
    with await open_socket("127.0.0.1", server.port) as sock:
        assert sock.getpeername()[1] == server.port
    with pytest.raises(BridgeError) as error:
        await open_socket("127.0.0.1", free_port)
    assert error.value.reason == "connection_refused"
