"""What a pool keeps open without being asked, and how it finds out what has died."""

from __future__ import annotations

import asyncio

from tests.support.http_call import fetch
from tests.transports.http1.conftest import read_request
from tests.transports.http1.test_pool import answer, serve_all


async def test_the_least_number_of_connections_is_opened_ahead_kept_and_replaced(scripted, pool, eventually):
    script = await scripted(serve_all)
    one = pool(script.url, min_size=2, idle_timeout=0.05)
    one.keep(asyncio.ensure_future)
    await eventually(lambda: one.stats().idle == 2)
    assert await fetch(one) == b"/ x" and script.connections == 2
    await asyncio.gather(*[fetch(one) for _ in range(4)])
    await eventually(lambda: one.stats().idle == 2 and script.connections == 4)  # what is more than that is closed
    one._idle[0].born -= 301
    await eventually(lambda: script.connections == 5 and one.stats().idle == 2)
    one._idle[0].abort()
    await eventually(lambda: script.connections == 6 and one.stats().idle == 2)


async def test_idle_connections_are_asked_whether_they_live_and_dead_ones_replaced(scripted, pool, eventually):
    asked: list[str] = []
    is_silent = False

    async def play(reader, writer, number):
        while True:
            head, _ = await read_request(reader)
            asked.append(head.split("\r\n")[0])
            if is_silent:
                writer.close()
                return
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\n")

    script = await scripted(play)
    one = pool(script.url, min_size=1, look=0.02)
    one.keep(asyncio.ensure_future)
    await eventually(lambda: len(asked) >= 2)
    assert set(asked) == {"HEAD /health HTTP/1.1"} and script.connections == 1
    is_silent = True
    await eventually(lambda: script.connections >= 2)
    is_silent = False
    await eventually(lambda: one.stats().idle == 1)


async def test_a_connection_that_is_only_asked_is_still_closed_when_nobody_uses_it(scripted, pool, eventually):
    async def play(reader, writer, number):
        while True:
            await read_request(reader)
            writer.write(answer(b""))

    script = await scripted(play)
    one = pool(script.url, look=0.02, idle_timeout=0.1)
    one.keep(asyncio.ensure_future)
    await fetch(one)
    await eventually(lambda: script.ended == 1)
    assert script.connections == 1 and one.stats().idle == 0


async def test_a_server_that_is_not_there_yet_gets_its_connections_later(pool, free_port, serve, eventually):
    one = pool(f"http://127.0.0.1:{free_port}", min_size=1, idle_timeout=0.05)
    one.keep(asyncio.ensure_future)
    await eventually(lambda: one._filling is not None and one._filling.done())
    assert one.stats()[2:5] == (0, 0, 0)
    assert (await one.tidy()) == (0, 0, 0, 0)


async def test_tidying_closes_the_dead_the_old_and_the_spare_and_opens_what_is_missing(scripted, pool):
    script = await scripted(serve_all)
    one = pool(script.url, min_size=1)
    await asyncio.gather(*[fetch(one) for _ in range(4)])
    assert await one.tidy() == (4, 3, 0, 1)
    one._idle[0].born -= 301
    assert await one.tidy() == (1, 1, 1, 1)
    assert script.connections == 5
    assert await fetch(one) == b"/ x" and script.connections == 5
