"""A server that takes no more connections of ours loses no call."""

from __future__ import annotations

import asyncio

import pytest

from mcpbridge.errors import BridgeError
from tests.support.http_call import ask, fetch
from tests.transports.http1.conftest import read_request
from tests.transports.http1.test_pool import answer


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_calls_that_a_server_has_no_connection_for_wait_for_those_it_has(serve, pool, tls, eventually, is_tls):
    go = asyncio.Event()
    running: set[bytes] = set()

    async def handler(request, responder):
        running.add(request.body)
        await go.wait()
        await responder.respond(200, (), request.body)

    server = await serve(handler, ssl=tls.server if is_tls else None, max_connections_per_ip=3)
    one = pool(f"http{'s' if is_tls else ''}://127.0.0.1:{server.port}", ssl=tls.client if is_tls else None, max_size=20)
    calls = asyncio.gather(*[fetch(one, body=b"%d" % n) for n in range(20)])
    await eventually(lambda: len(running) == 3 and one.stats().waiting == 17)
    go.set()
    assert await calls == [b"%d" % n for n in range(20)]
    assert len(server.seen) == 20, "a call ran twice or never"


@pytest.mark.parametrize("is_tls", [False, True], ids=["plain", "tls"])
async def test_a_call_comes_back_while_others_hold_all_connections(serve, pool, tls, eventually, is_tls):
    server = await serve(ssl=tls.server if is_tls else None, max_connections_per_ip=1)
    _, other = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls.client if is_tls else None)
    await eventually(lambda: server.connections == 1)
    one = pool(f"http{'s' if is_tls else ''}://127.0.0.1:{server.port}", ssl=tls.client if is_tls else None)
    calls = asyncio.gather(*[fetch(one, body=b"%d" % n) for n in range(3)])
    await eventually(lambda: one.stats().misses >= 2)
    assert not calls.done()
    other.close()
    assert await calls == [b"0", b"1", b"2"]
    assert len(server.seen) == 3, "a call ran twice or never"


async def test_a_call_comes_back_when_it_was_refused_after_it_was_sent(scripted, pool, monkeypatch):
    monkeypatch.setattr("mcpbridge.transports.http1.pool.MIN_COME_BACK", 0.01)
    refusal = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %b\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    async def play(reader, writer, number):
        await read_request(reader)
        writer.write(answer(b"in") if number == 3 else refusal % (b"later" if number > 3 else b"0"))
        writer.close()

    script = await scripted(play)
    assert await fetch(pool(script.url)) == b"in"
    assert script.connections == 3
    assert (await ask(pool(script.url))).status == 429, "without a time there is none to come back at"


async def test_a_server_that_takes_none_of_our_connections_is_said_when_patience_ends(serve, pool):
    server = await serve(max_connections_per_ip=0)
    one = pool(f"http://127.0.0.1:{server.port}", max_size=4, queue_time=0.1)
    for outcome in await asyncio.gather(*[ask(one) for _ in range(12)], return_exceptions=True):
        if isinstance(outcome, BridgeError):  # the server's words came before the request was written
            assert not outcome.sent
            assert str(outcome).startswith(("backend error: cannot connect: the server ", "server busy"))
        else:
            assert outcome.status == 429
    assert one.stats()[2:5] == (0, 0, 0)


async def test_a_429_about_a_request_is_the_answer_to_it(scripted, pool, eventually):
    asked = 0

    async def play(reader, writer, number):
        nonlocal asked
        while True:
            _, body = await read_request(reader)
            asked += 1
            if body == b"stuck":
                await reader.read()
            writer.write(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")

    one = pool((await scripted(play)).url)
    stuck = asyncio.get_running_loop().create_task(ask(one, body=b"stuck"))
    await eventually(lambda: asked == 1)
    assert (await ask(one)).status == 429 and asked == 2
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck
