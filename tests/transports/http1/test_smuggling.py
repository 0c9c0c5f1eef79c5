"""Requests that two servers could read differently, against a live server."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.http_gate import NEXT, chunked, post
from tests.support.http_vectors import REFUSED_BODIES, REFUSED_HEADS, request

# -- what could be read in two ways


@pytest.mark.security
@pytest.mark.parametrize("name", [*REFUSED_HEADS, *REFUSED_BODIES])
async def test_behind_a_doubtful_request_nothing_is_read(serve, connect, name):
    """Reliability table 2 row 16: the request hidden behind a doubtful one never reaches a handler."""
    raw, status = {**REFUSED_HEADS, **REFUSED_BODIES}[name]
    server = await serve()
    client = await connect(server)
    client.send(raw, NEXT)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    client.send(NEXT)
    assert await client.rest() == b""
    assert server.seen == []
    assert server.refused == {status: 1}


CHUNKED = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked")
HIDDEN = {
    "in a body with length": (post(NEXT), [NEXT]),
    "in a chunk": (chunked(NEXT, b"x"), [NEXT + b"x"]),
    "in the body of a GET": (request(b"GET / HTTP/1.1", b"Content-Length: %d" % len(NEXT)) + NEXT, [NEXT]),
    "in the body behind an upgrade": (post(NEXT, b"Connection: Upgrade", b"Upgrade: h2c"), [NEXT]),
    "in the body behind a websocket upgrade": (post(NEXT, b"Connection: Upgrade", b"Upgrade: websocket"), [NEXT]),
    "in a chunk extension": (CHUNKED + b'1;a="GET /smuggled HTTP/1.1"\r\nx\r\n0\r\n\r\n', [b"x"]),
    "in trailers": (CHUNKED + b"0\r\nContent-Length: 40\r\nHost: b\r\n\r\n", [b""]),
    "in a field": (request(b"POST / HTTP/1.1", b"X: GET /smuggled HTTP/1.1"), [b""]),
    "behind a zero length": (request(b"POST / HTTP/1.1", b"Content-Length: 0"), [b""]),
    "in the body of a HEAD": (request(b"HEAD / HTTP/1.1", b"Content-Length: %d" % len(NEXT)) + NEXT, [NEXT]),
    "in the body of an OPTIONS *": (request(b"OPTIONS * HTTP/1.1", b"Content-Length: %d" % len(NEXT)) + NEXT, [NEXT]),
}


@pytest.mark.security
@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("step", [3, 100000])
async def test_a_request_inside_another_is_its_body(serve, connect, name, step):
    raw, bodies = HIDDEN[name]
    server = await serve()
    client = await connect(server)
    raw += request(b"GET /last HTTP/1.1", b"Connection: close")
    for at in range(0, len(raw), step):
        client.send(raw[at : at + step])
        await asyncio.sleep(0)
    await client.rest()
    assert [seen.body for seen in server.seen] == [*bodies, b""]
    assert server.seen[-1].path == "/last" and all(seen.path != "/smuggled" for seen in server.seen)
