"""An HTTP server that lies below JSON: each lie ends its own call with a reason, in bounded memory, and the next call works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.transports.http.test_streamable import DISCOVER, Client, in_front_of, result

pytestmark = pytest.mark.security

Lie = Callable[[asyncio.StreamWriter, Any], Awaitable[None]]
LIMIT = 100_000  # bytes of one answer the bridge takes
OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
SSE = b"Content-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def whole(body: bytes, head: bytes = OK + JSON) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Liar:
    """A modern server that answers ``tools/call`` of the tool ``lie`` with bytes of its own and everything else correctly."""

    def __init__(self, lie: Lie) -> None:
        self._lie = lie
        self.taken = 0  # bytes of lies that were handed to the network
        self.over = asyncio.Event()
        self.lies = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")
                message = json.loads(await reader.readexactly(length))
                if message.get("params", {}).get("name") == "lie":
                    self.lies += 1
                    try:
                        await self._lie(writer, message)
                    finally:
                        self.over.set()
                elif message["method"] == "server/discover":
                    writer.write(whole(result(message["id"], DISCOVER)))
                else:
                    writer.write(whole(result(message["id"], {"resultType": "complete", "honest": True})))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the bridge cut the connection, as it should
        finally:
            writer.close()


@asynccontextmanager
async def behind_a_bridge(liar: Liar, *, deadline: float = 5.0) -> AsyncIterator[Client]:
    server = await asyncio.start_server(liar.accept, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, in_front_of(url, deadline=deadline, max_response=LIMIT) as client:
        yield client


def says(*pieces: bytes, ends: bool = False) -> Lie:
    async def lie(writer: asyncio.StreamWriter, _message: Any) -> None:
        for piece in pieces:
            writer.write(piece)
        if ends:
            writer.close()

    return lie


LIES = {
    "not HTTP at all": (says(b"\x00\x01\x02\x03" * 100), "bad_answer"),
    "JSON without a head": (says(b'{"jsonrpc":"2.0","id":1,"result":{}}\r\n\r\n'), "bad_answer"),
    "an end at once": (says(ends=True), "stream_closed"),
    "half a head": (says(b"HTTP/1.1 200 OK\r\nContent-Ty", ends=True), "stream_closed"),
    "1xx without end": (says(*[b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 10_000), "bad_answer"),
    "an upgrade": (says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: evil\r\n\r\n"), "bad_answer"),
    "a giant field": (says(OK + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n"), "bad_answer"),
    "fields without end": (says(OK, *[b"X-%d: x\r\n" % n for n in range(20_000)]), "bad_answer"),
    "two lengths": (says(OK + JSON + b"Content-Length: 2\r\nContent-Length: 20\r\n\r\n{}"), "bad_answer"),
    "length and chunks": (says(OK + JSON + b"Content-Length: 2\r\n" + CHUNKED + b"0\r\n\r\n"), "bad_answer"),
    "a length below zero": (says(OK + JSON + b"Content-Length: -1\r\n\r\n"), "bad_answer"),
    "a folded field": (says(OK + b"X: a\r\n b\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}"), "bad_answer"),
    "a redirect": (says(b"HTTP/1.1 307 T\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"), "backend_error"),
    "a page": (says(whole(b"<html>", OK + b"Content-Type: text/html\r\n")), "bad_answer"),
    "no type": (says(whole(b'{"jsonrpc":"2.0","id":1,"result":{}}', OK)), "bad_answer"),
    "no content": (says(b"HTTP/1.1 204 No Content\r\n\r\n"), "backend_error"),
    "accepted": (says(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"), "backend_error"),
    "packed": (says(whole(b"\x1f\x8b\x08\x00", OK + JSON + b"Content-Encoding: gzip\r\n")), "bad_answer"),
    "an announced giant": (says(OK + JSON + b"Content-Length: 999999999999\r\n\r\n"), "answer_too_large"),
    "a giant in chunks": (says(OK + JSON + CHUNKED, *[chunk(b" " * 10_000)] * 100), "answer_too_large"),
    "a giant event": (says(OK + SSE + CHUNKED, chunk(b"data: "), *[chunk(b"x" * 10_000)] * 100), "answer_too_large"),
    "a line without end": (says(OK + SSE + CHUNKED, *[chunk(b":" * 10_000)] * 100), "answer_too_large"),
    "a chunk larger than said": (says(OK + JSON + CHUNKED + b"2\r\n{}}}\r\n0\r\n\r\n"), "bad_answer"),
    "a chunk of a negative size": (says(OK + JSON + CHUNKED + b"-1\r\n\r\n"), "bad_answer"),
    "a chunk of an endless size": (says(OK + JSON + CHUNKED + b"f" * 100_000), "bad_answer"),
    "an extension without end": (says(OK + JSON + CHUNKED + b"1;" + b"x" * 200_000), "bad_answer"),
    "trailers without end": (says(OK + JSON + CHUNKED + b"0\r\n", *[b"X: y\r\n"] * 50_000), "bad_answer"),
    "half JSON": (says(whole(b'{"jsonrpc":"2.0","id":1,"resu')), "bad_answer"),
    "half a body": (says(OK + JSON + b"Content-Length: 100\r\n\r\n{", ends=True), "stream_closed"),
    "half a chunk": (says(OK + JSON + CHUNKED + b"10\r\n{", ends=True), "stream_closed"),
    "another's answer": (says(whole(b'{"jsonrpc":"2.0","id":987654,"result":{"stolen":true}}')), "bad_answer"),
    "a text as id": (says(whole(b'{"jsonrpc":"2.0","id":"1","result":{"stolen":true}}')), "bad_answer"),
    "a batch": (says(whole(b'[{"jsonrpc":"2.0","id":1,"result":{}}]')), "bad_answer"),
    "a request as answer": (says(whole(b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage"}')), "bad_answer"),
    "a stream of others' answers": (
        says(OK + SSE + CHUNKED, *[chunk(b'data: {"jsonrpc":"2.0","id":987654,"result":{}}\n\n')] * 500, b"0\r\n\r\n"),
        "stream_closed",
    ),
    "a stream of damage": (says(OK + SSE + CHUNKED, *[chunk(b"data: {\n\n")] * 500, b"0\r\n\r\n"), "stream_closed"),
    "an empty stream": (says(OK + SSE + CHUNKED + b"0\r\n\r\n"), "stream_closed"),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_fails_its_call_with_a_reason_and_no_other(name: str) -> None:
    lie, reason = LIES[name]
    liar = Liar(lie)
    async with behind_a_bridge(liar) as client:
        _status, _headers, answer = await client.modern(1, "tools/call", {"name": "lie"})
        answer = answer[-1] if isinstance(answer, list) else answer
        assert (answer["id"], answer["error"]["data"]["reason"]) == (1, reason)
        _status, _headers, answer = await client.modern(2, "tools/call", {"name": "t"})
        assert answer["result"]["honest"] is True
        assert liar.lies == 1, "a call that may have run was sent again"


def endless(head: bytes, piece: bytes) -> Callable[[], Liar]:
    def make() -> Liar:
        async def lie(writer: asyncio.StreamWriter, _message: Any) -> None:
            writer.write(head)
            while True:
                writer.write(piece)
                liar.taken += len(piece)
                await writer.drain()
                await asyncio.sleep(0.001)

        liar = Liar(lie)
        return liar

    return make


def silent(*pieces: bytes) -> Callable[[], Liar]:
    def make() -> Liar:
        async def lie(writer: asyncio.StreamWriter, _message: Any) -> None:
            writer.write(b"".join(pieces))
            await writer.drain()
            await asyncio.Event().wait()

        return Liar(lie)

    return make


ENDLESS = {
    "comments": endless(OK + SSE + CHUNKED, chunk(b": still here\n\n")),
    "empty events": endless(OK + SSE + CHUNKED, chunk(b"data:\n\n")),
    "named events": endless(OK + SSE + CHUNKED, chunk(b"event: evil\ndata: {}\n\n")),
    "answers to others": endless(OK + SSE + CHUNKED, chunk(b'data: {"jsonrpc":"2.0","id":98765,"result":{}}\n\n')),
    "progress of others": endless(
        OK + SSE + CHUNKED,
        chunk(b'data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"x","progress":1}}\n\n'),
    ),
    "silence": silent(),
    "a head that stops": silent(OK + b"X-"),
    "a body that stops": silent(OK + JSON + b"Content-Length: 100\r\n\r\n{"),
    "a stream that stops": silent(OK + SSE + CHUNKED + chunk(b"data: {")),
    "a 404 that stops": silent(b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n"),
}


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_never_ends_ends_with_the_deadline_of_the_call(name: str) -> None:
    liar = ENDLESS[name]()
    async with behind_a_bridge(liar, deadline=0.3) as client:
        _status, _headers, answer = await client.modern(1, "tools/call", {"name": "lie"})
        answer = answer[-1] if isinstance(answer, list) else answer
        assert answer["error"]["data"]["reason"] == "timeout"
        _status, _headers, answer = await client.modern(2, "tools/call", {"name": "t"})
        assert answer["result"]["honest"] is True


async def test_an_answer_followed_by_a_second_one_does_not_reach_the_next_call() -> None:
    async def lie(writer: asyncio.StreamWriter, message: Any) -> None:
        own = result(message["id"], {"resultType": "complete", "first": True})
        stolen = result(message["id"] + 1, {"resultType": "complete", "stolen": True})
        writer.write(whole(own) + whole(stolen))

    async with behind_a_bridge(Liar(lie)) as client:
        _status, _headers, answer = await client.modern(1, "tools/call", {"name": "lie"})
        assert answer["result"]["first"] is True
        _status, _headers, answer = await client.modern(2, "tools/call", {"name": "t"})
        assert answer["result"].get("honest") is True


async def test_a_redirect_is_not_followed() -> None:
    reached = asyncio.Event()

    async def elsewhere(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    other = await asyncio.start_server(elsewhere, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]

    async def lie(writer: asyncio.StreamWriter, _message: Any) -> None:
        head = b"HTTP/1.1 308 P\r\nLocation: http://127.0.0.1:%d/\r\nContent-Length: 0\r\n\r\n" % port
        writer.write(head)

    async with other, behind_a_bridge(Liar(lie)) as client:
        _status, _headers, answer = await client.modern(1, "tools/call", {"name": "lie"})
        assert answer["error"]["data"]["reason"] == "backend_error"
        assert not reached.is_set()
