"""The way back of a request: whole answers, streams, readers that are slow."""

from __future__ import annotations

import asyncio
import os

import pytest

from tests.support.http_gate import GET
from tests.support.http_vectors import request


async def test_a_large_answer_is_written_at_the_pace_of_its_reader(serve, connect, eventually):
    body = os.urandom(1 << 20) * 12
    buffered: list[int] = []

    async def handler(request, responder):
        connection = responder._connection
        write = connection.write

        def watched(data):
            write(data)
            buffered.append(connection._transport.get_write_buffer_size())

        connection.write = watched
        await responder.respond(200, [], body)

    client = await connect(await serve(handler))
    client.send(GET)
    await eventually(lambda: buffered and buffered[-1] > 65536)
    assert (await client.answer()).body == body
    assert max(buffered) < 1 << 20


async def test_a_header_that_would_split_the_answer_becomes_an_error(serve, connect):
    async def handler(request, responder):
        await responder.respond(200, [("x", "a\r\nset-cookie: b")], b"")

    client = await connect(await serve(handler))
    client.send(GET)
    answer = await client.answer()
    assert answer.status == 500 and "set-cookie" not in answer.headers


# -- streams


async def test_a_stream_is_sent_in_chunks_as_they_are_made(serve, connect):
    gate = asyncio.Event()

    async def handler(request, responder):
        await responder.start(200, [("content-type", "text/event-stream")])
        responder.send(b"one")
        responder.send(b"")
        await gate.wait()
        responder.send(b"two")
        await responder.drain()
        await responder.end()
        await responder.end()

    client = await connect(await serve(handler))
    client.send(GET, GET)
    for _ in range(2):
        async with asyncio.timeout(5):
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"transfer-encoding: chunked" in head and b"content-length" not in head
            assert await client.reader.readexactly(8) == b"3\r\none\r\n"
            gate.set()
            assert await client.reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"


async def test_a_stream_to_an_http_1_0_client_ends_with_the_connection(serve, connect):
    async def handler(request, responder):
        responder.start_now(200)
        responder.send(b"one")
        responder.send(b"two")
        await responder.end()

    client = await connect(await serve(handler))
    client.send(request(b"GET / HTTP/1.0"))
    answer = await client.answer()
    assert (answer.headers.get("transfer-encoding"), answer.headers["connection"], answer.body) == (None, "close", b"onetwo")


async def test_a_stream_for_head_has_no_body(serve, connect):
    async def handler(request, responder):
        responder.start_now(200)
        responder.send(b"one")
        await responder.end()

    client = await connect(await serve(handler))
    client.send(request(b"HEAD / HTTP/1.1"), request(b"HEAD / HTTP/1.0"))
    assert [(await client.answer(head_only=True)).status for _ in range(2)] == [200, 200]
    assert await client.rest() == b""


async def test_a_reader_too_far_behind_loses_the_connection(serve, connect):
    gone = asyncio.Event()

    async def handler(request, responder):
        responder.on_gone = gone.set
        responder.start_now(200)
        while not responder.gone:
            responder.send(b"x" * 65536)
            await asyncio.sleep(0)
        responder.send(b"nobody reads this")
        await responder.drain()
        await responder.end()

    client = await connect(await serve(handler, max_buffer=1 << 20))
    client.send(GET)
    async with asyncio.timeout(5):
        await gone.wait()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.answer()


async def test_drain_waits_for_a_slow_reader(serve, connect, eventually):
    sent: list[int] = []

    async def handler(request, responder):
        responder.start_now(200)
        for _ in range(100):
            responder.send(b"x" * 262144)
            sent.append(responder._connection._transport.get_write_buffer_size())
            await responder.drain()
        await responder.end()

    client = await connect(await serve(handler))
    client.send(GET)
    await eventually(lambda: sent and sent[-1] > 65536)
    assert len((await client.answer()).body) == 100 * 262144
    assert max(sent) < 1 << 20


async def test_an_answer_is_given_once(serve, connect):
    raised: list[str] = []

    async def handler(request, responder):
        for early in (lambda: responder.send(b"x"), responder.end):
            try:
                result = early()
                if result is not None:
                    await result
            except RuntimeError as error:
                raised.append(str(error))
        await responder.respond(200, [], b"first")
        for late in (responder.respond(200), responder.start(200)):
            try:
                await late
            except RuntimeError as error:
                raised.append(str(error))
        try:
            responder.send(b"x")
        except RuntimeError as error:
            raised.append(str(error))

    client = await connect(await serve(handler))
    client.send(GET, GET)
    assert [(await client.answer()).body for _ in range(2)] == [b"first", b"first"]
    assert len(raised) == 10
