"""Answers as servers really give them: whole, in pieces, too large, broken, cut, never."""

from __future__ import annotations

import asyncio

import pytest

from mcpbridge.errors import BridgeError
from tests.support.http_call import ask, fetch
from tests.transports.http1.conftest import read_request

OK = b"HTTP/1.1 200 OK\r\n"


def answering(*answers: bytes, close: bool = False):
    """Plays the answers in turn, one per request."""

    async def play(reader, writer, number):
        for answer in answers:
            await read_request(reader)
            writer.write(answer)
        if not close:
            await reader.read()

    return play


WHOLE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x\r\nllo\r\n0\r\nT: x\r\n\r\n", b"hello", True),
    "until close": (OK + b"\r\nhello", b"hello", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "connection close": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "behind interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: a\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"", True),
    "with more behind it": (OK + b"Content-Length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\n", b"hello", False),
    "chunked with more behind it": (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\nX", b"hello", False),
    "empty with more behind it": (OK + b"Content-Length: 0\r\n\r\nX", b"", False),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("step", [1, 7, 100_000])
async def test_an_answer_is_read_whole_in_any_pieces_and_reused_only_without_doubt(scripted, pool, eventually, name, step):
    raw, body, reusable = WHOLE[name]

    async def play(reader, writer, number):
        await read_request(reader)
        for at in range(0, len(raw), step):
            writer.write(raw[at : at + step])
            await writer.drain()
            await asyncio.sleep(0)
        if name != "until close":
            await reader.read()

    script = await scripted(play)
    one = pool(script.url)
    assert await fetch(one) == body
    if reusable:
        assert (one.stats().idle, one.stats().in_use) == (1, 0)
    else:
        await eventually(lambda: one.stats().idle == 0 and one.stats().in_use == 0)


async def test_status_and_headers_come_before_the_body(scripted, pool):
    go = asyncio.Event()

    async def play(reader, writer, number):
        head, body = await read_request(reader)
        assert head.split("\r\n")[0] == "POST /p?q HTTP/1.1" and "host: 127.0.0.1:" in head and body == b"body"
        writer.write(b"HTTP/1.1 418 No\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        await go.wait()
        writer.write(b"1\r\nx\r\n0\r\n\r\n")
        await reader.read()

    response = await ask(pool((await scripted(play)).url), target="/p?q", body=b"body")
    assert (response.status, response.headers["x-a"], response.complete) == (418, "1", False)
    go.set()
    assert await response.read() == b"x" and response.complete


async def test_a_head_request_has_no_body_to_wait_for(scripted, pool):
    one = pool((await scripted(answering(OK + b"Content-Length: 500\r\n\r\n", OK + b"Content-Length: 2\r\n\r\nok"))).url)
    assert await fetch(one, "HEAD", body=b"") == b""
    assert await fetch(one, "GET", body=b"") == b"ok"
    assert one.stats().hits == 1


async def test_a_body_at_the_limit_is_read(scripted, pool):
    one = pool(
        (
            await scripted(
                answering(
                    OK + b"Content-Length: 5\r\n\r\nhello", OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                )
            )
        ).url
    )
    assert await fetch(one, max_response=5) == b"hello"
    assert await fetch(one, max_response=5) == b"hello"


@pytest.mark.parametrize(
    "raw",
    [
        OK + b"Content-Length: 6\r\n\r\nhello!",
        OK + b"Content-Length: 99999999\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n6\r\nhello!\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n3\r\nlo!\r\n0\r\n\r\n",
        OK + b"\r\nhello!",
    ],
)
async def test_a_body_over_the_limit_ends_the_call_and_not_the_memory(scripted, pool, raw, eventually):
    one = pool((await scripted(answering(raw))).url)
    with pytest.raises(BridgeError) as caught:
        await fetch(one, max_response=5)
    assert caught.value.reason == "answer_too_large"
    await eventually(lambda: one.stats().in_use == 0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"SSH-2.0-OpenSSH\r\n", "bad_answer"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "bad_answer"),
        (b'{"jsonrpc":"2.0"}\n', "bad_answer"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 OK\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 100, "bad_answer"),
        (OK + b"X: y\r\n" * 20_000, "bad_answer"),
        (OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "bad_answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", "bad_answer"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\nhello", "bad_answer"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n", "bad_answer"),
        (b"", "stream_closed"),
        (b"HTTP/1.1 2", "stream_closed"),
        (OK + b"Content-Length: 5\r\n\r\nhel", "stream_closed"),
        (OK + b"Content-Length: 500000\r\n\r\nhel", "stream_closed"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "stream_closed"),
    ],
)
async def test_a_broken_or_cut_answer_is_an_error_of_that_call(scripted, pool, raw, reason, eventually):
    one = pool((await scripted(answering(raw, close=True))).url)
    with pytest.raises(BridgeError) as caught:
        await fetch(one)
    assert (caught.value.reason, caught.value.sent) == (reason, True)
    await eventually(lambda: one.stats()[2:4] == (0, 0))


async def test_chunks_come_as_they_are_sent(scripted, pool):
    go = asyncio.Queue[bytes]()

    async def play(reader, writer, number):
        await read_request(reader)
        writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        while data := await go.get():
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")
        await reader.read()

    one = pool((await scripted(play)).url)
    response = await ask(one)
    found = []
    go.put_nowait(b"one")
    async with asyncio.timeout(5):
        async for chunk in response.chunks():
            found.append(chunk)
            go.put_nowait({1: b"two", 2: b"three"}.get(len(found), b""))
    assert found == [b"one", b"two", b"three"]
    assert one.stats().idle == 1


async def test_a_stream_that_is_cut_is_an_error_after_what_came(scripted, pool):
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    response = await ask(pool((await scripted(answering(raw, close=True))).url))
    chunks = response.chunks()
    assert await anext(chunks) == b"one"
    with pytest.raises(BridgeError) as caught:
        await anext(chunks)
    assert caught.value.reason == "stream_closed"


@pytest.mark.parametrize("framing", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked", b"Connection: close"])
async def test_a_slow_reader_slows_the_server(scripted, pool, eventually, framing):
    sent = 0
    is_chunked = framing.endswith(b"chunked")

    async def play(reader, writer, number):
        nonlocal sent
        await read_request(reader)
        writer.write(OK + framing + b"\r\n\r\n")
        for _ in range(500):
            data = b"x" * 100_000
            writer.write(b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data)
            sent += 100_000
            await writer.drain()
        if is_chunked:
            writer.write(b"0\r\n\r\n")
        if not framing.endswith(b"close"):
            await reader.read()

    response = await ask(pool((await scripted(play)).url))
    await eventually(lambda: response._connection._is_paused)
    assert response._held < 262144 * 2 + 1
    total = 0
    async with asyncio.timeout(10):
        async for chunk in response.chunks():
            if total == 0:
                assert sent < 30_000_000
            total += len(chunk)
    assert total == 50_000_000 and response.complete


@pytest.mark.parametrize("how", ["aclose", "leave the loop", "cancel the reader", "cancel the request"])
async def test_an_answer_given_up_ends_its_connection_and_the_server_sees_it(scripted, pool, eventually, how):
    gone = asyncio.Event()
    asked = asyncio.Event()

    async def play(reader, writer, number):
        await read_request(reader)
        asked.set()
        if how != "cancel the request":
            writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        try:
            assert await reader.read() == b""
        finally:
            gone.set()

    one = pool((await scripted(play)).url)
    loop = asyncio.get_running_loop()
    if how == "cancel the request":
        task = loop.create_task(ask(one))
        await asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        response = await ask(one)
        if how == "aclose":
            await response.aclose()
            await response.aclose()
        elif how == "leave the loop":
            chunks = response.chunks()
            assert await anext(chunks) == b"one"
            await chunks.aclose()
        else:
            reading = loop.create_task(response.read())
            await eventually(lambda: response._wanted is not None)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
    async with asyncio.timeout(5):
        await gone.wait()
    assert one.stats()[2:4] == (0, 0)


async def test_a_cancelled_call_whose_answer_is_already_here_leaves_the_connection_to_the_next(scripted, pool):
    one = pool((await scripted(answering(*[OK + b"Content-Length: 1\r\n\r\nx"] * 2))).url)
    task = asyncio.get_running_loop().create_task(ask(one))
    while not task.done() and one.stats().idle == 0:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await fetch(one) == b"x"
    assert one.stats().hits == 1


async def test_an_answer_before_the_whole_request_was_taken_ends_the_connection(scripted, pool, eventually):
    cut = asyncio.Event()

    async def play(reader, writer, number):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await writer.drain()
        try:
            await reader.readexactly(50_000_000)
        except (ConnectionError, asyncio.IncompleteReadError):
            cut.set()

    one = pool((await scripted(play)).url)
    response = await ask(one, body=b"x" * 50_000_000)
    assert (response.status, await response.read()) == (413, b"no")
    assert one.stats()[2:4] == (0, 0)
    await eventually(cut.is_set)
