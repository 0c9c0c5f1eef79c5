"""Message boundaries: the bridge's engine, h11, nginx and HAProxy read the same bytes alike, or the bridge refuses and closes.

Behind each vector stands a further request: were it read differently by a proxy in front, it would be smuggled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import h11
import pytest

from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from tests.support.http_gate import NEXT, chunked, post
from tests.support.http_oracles import HAPROXY, NGINX, Behind, Message, Messages, Reading, proxy, read_by_h11, read_over
from tests.support.http_vectors import REFUSED_BODIES, REFUSED_HEADS, request

pytestmark = [pytest.mark.security, pytest.mark.timeout(120)]
POST = b"POST / HTTP/1.1"
WHOLE = 1 << 20  # bytes written at once
CHUNKED = request(POST, b"Transfer-Encoding: chunked")

#: what has one meaning, however odd it looks
PLAIN = {
    "a length": post(b"abc"),
    "a request as body": post(NEXT),
    "chunks": chunked(b"abc", NEXT),
    "no body": request(b"GET / HTTP/1.1"),
    "a body of a GET": request(b"GET / HTTP/1.1", b"Content-Length: %d" % len(NEXT)) + NEXT,
    "chunks of a GET": request(b"GET / HTTP/1.1", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
    "a body of a HEAD": request(b"HEAD / HTTP/1.1", b"Content-Length: %d" % len(NEXT)) + NEXT,
    "a body of a DELETE": request(b"DELETE / HTTP/1.1", b"Content-Length: 3") + b"abc",
    "h2c upgrade with a body": post(NEXT, b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMA"),
    "h2c upgrade with chunks": request(POST, b"Connection: Upgrade", b"Upgrade: h2c", b"Transfer-Encoding: chunked")
    + b"3\r\nabc\r\n0\r\n\r\n",
    "websocket upgrade with a body": post(NEXT, b"Connection: Upgrade", b"Upgrade: websocket"),
    "upper-case chunk size": CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n",
    "leading zeros of a chunk size": CHUNKED + b"0003\r\nabc\r\n000\r\n\r\n",
    "a chunk extension": CHUNKED + b"3;a=b\r\nabc\r\n0;last\r\n\r\n",
    "a quoted request in an extension": CHUNKED + b'1;a="GET /smuggled HTTP/1.1"\r\nx\r\n0\r\n\r\n',
    "trailers": CHUNKED + b"3\r\nabc\r\n0\r\nX-A: b\r\n\r\n",
    "a length in trailers": CHUNKED + b"0\r\nContent-Length: 40\r\n\r\n",
    "Transfer-Encoding in upper case": request(POST, b"TRANSFER-ENCODING: CHUNKED") + b"3\r\nabc\r\n0\r\n\r\n",
    "tabs around a value": request(POST, b"Content-Length:\t3\t") + b"abc",
    "a length with leading zeros": request(POST, b"Content-Length: 0003") + b"abc",
    "an empty line before the request": b"\r\n" + post(b"abc"),
    "two empty lines before the request": b"\r\n\r\n" + post(b"abc"),
    "Connection: close": request(b"GET / HTTP/1.1", b"Connection: close"),
    "Connection: keep-alive of HTTP/1.0": request(b"GET / HTTP/1.0", b"Connection: keep-alive"),
    "HTTP/1.0": request(b"GET / HTTP/1.0"),
    "a length named in Connection": request(POST, b"Connection: Content-Length", b"Content-Length: 3") + b"abc",
    "Transfer-Encoding named in Connection": request(POST, b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked")
    + b"3\r\nabc\r\n0\r\n\r\n",
    "100-continue": request(POST, b"Expect: 100-continue", b"Content-Length: 3") + b"abc",
    "OPTIONS *": request(b"OPTIONS * HTTP/1.1"),
    "a query with odd characters": request(b"GET /a?b='|{}^ HTTP/1.1"),
    "a path with dots": request(b"GET /a/../b HTTP/1.1"),
    "a path with %00": request(b"GET /a%00b HTTP/1.1"),
    "a value with bytes above ASCII": request(b"GET / HTTP/1.1", b"X: \xe9"),
    "nothing whole": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\nabc",
}  # fmt: skip
VECTORS: dict[str, bytes] = {
    **{name: raw for name, (raw, _status) in {**REFUSED_HEADS, **REFUSED_BODIES}.items()},
    **PLAIN,
}


class Engine(HttpServer):
    """The bridge's own engine, and what it handed on, by the client's port."""

    def __init__(self) -> None:
        super().__init__(self._note, max_connections_per_ip=1000)
        self.seen: dict[int, list[Message]] = {}

    async def _note(self, request: HttpRequest, responder: Responder) -> None:
        self.seen.setdefault(request.peer_port, []).append((request.method, request.target.partition("?")[0], request.body))
        await responder.respond(200, [], b"")


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Engine, int]]:
    engine = Engine()
    _host, port = await engine.start("127.0.0.1", 0)
    yield engine, port
    await engine.close()


async def readings(engine: Engine, port: int, step: int) -> dict[str, Reading]:
    """The bridge's reading of every vector."""

    async def one(raw: bytes) -> Reading:
        return await read_over(port, raw + NEXT, step, 2, lambda own: engine.seen.get(own, []))

    return dict(zip(VECTORS, await asyncio.gather(*map(one, VECTORS.values())), strict=True))


def differ(ours: dict[str, Reading], theirs: dict[str, Reading]) -> None:
    """Fail with the vectors that are read in two ways."""
    wrong = [
        f"{name}:\n  ours   {ours[name]}"[:600] + f"\n  theirs {theirs[name]}"[:600]
        for name in VECTORS
        if not ours[name].agrees_with(theirs[name])
    ]
    if wrong:
        pytest.fail("\n".join(wrong), pytrace=False)


@pytest.mark.parametrize("step", [7, WHOLE])
async def test_h11_agrees_or_the_bridge_refuses(engine: tuple[Engine, int], step: int) -> None:
    ours = await readings(*engine, step)
    theirs = {name: read_by_h11(raw + NEXT) for name, raw in VECTORS.items()}
    differ(ours, theirs)


@pytest.mark.parametrize("step", [7, WHOLE])
@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_proxies_agree_or_the_bridge_refuses(engine: tuple[Engine, int], name: str, step: int, tmp_path: Path) -> None:
    if (NGINX if name == "nginx" else HAPROXY) is None:
        pytest.skip(f"{name} is not installed")
    ours = await readings(*engine, step)
    behind = Behind()
    await behind.start()
    with proxy(name, tmp_path, behind.port) as port:

        async def one(vector: str) -> Reading:
            enough = len(ours[vector].messages)
            return await read_over(port, VECTORS[vector] + NEXT, step, enough, lambda own: behind.seen[own])

        theirs = dict(zip(VECTORS, await asyncio.gather(*map(one, VECTORS)), strict=True))
    behind.close()
    assert sum(len(reading.messages) for reading in theirs.values()) > 40, "the proxy handed nothing on"
    differ(ours, theirs)


def test_a_message_that_comes_in_pieces_is_one_message_behind_the_proxies() -> None:
    """HAProxy hands a body on when it comes: often, not always, together with its head."""
    parser = h11.Connection(h11.SERVER)
    messages = Messages(parser)
    parser.receive_data(request(POST, b"X-Client-Port: 7", b"Content-Length: 3") + b"a")
    assert messages.next() is None
    parser.receive_data(b"bc")
    assert messages.next() == (("POST", "/", b"abc"), b"7")


async def test_what_has_one_meaning_is_read_and_what_has_two_is_not(engine: tuple[Engine, int]) -> None:
    ours = await readings(*engine, WHOLE)
    refused = {name for name, reading in ours.items() if not reading.messages}
    assert refused >= set(REFUSED_HEADS) | set(REFUSED_BODIES)
    assert all(reading.is_over for name, reading in ours.items() if name in REFUSED_HEADS or name in REFUSED_BODIES)
    assert len(refused & set(PLAIN)) <= 6, sorted(refused & set(PLAIN))
