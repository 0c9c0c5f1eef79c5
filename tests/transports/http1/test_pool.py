"""When a connection is used again, when not, when a call is sent twice, and what connecting can do."""

from __future__ import annotations

import asyncio

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1.pool import HttpPool
from tests.support.http_call import ask, fetch
from tests.transports.http1.conftest import read_request


def answer(body: bytes = b"ok", *fields: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body)
    return head + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


async def serve_all(reader, writer, number):
    while True:
        head, body = await read_request(reader)
        writer.write(answer(head.split(" ")[1].encode() + b" " + body))


# -- reuse


async def test_one_connection_serves_call_after_call(scripted, pool):
    script = await scripted(serve_all)
    one = pool(script.url)
    for _ in range(5):
        assert await fetch(one, target="/a", body=b"b") == b"/a b"
    stats = one.stats()
    assert (stats.hits, stats.misses, stats.in_use, stats.idle, script.connections) == (4, 1, 0, 1, 1)
    assert sum(stats.took.values()) == 1 and not HttpPool(script.url).stats().took  # one of eight is measured


async def test_calls_at_the_same_time_have_connections_of_their_own_and_the_newest_is_used_first(scripted, pool):
    script = await scripted(serve_all)
    one = pool(script.url)
    assert await asyncio.gather(*[fetch(one, body=b"%d" % n) for n in range(10)]) == [b"/ %d" % n for n in range(10)]
    assert script.connections == 10 and one.stats().idle == 10
    newest = one._idle[-1]
    await fetch(one)
    assert one._idle[-1] is newest


@pytest.mark.parametrize(
    ("idle", "field", "retry_safe", "reused"),
    [
        (3.9, b"X: 1", False, True),
        (4.1, b"X: 1", False, False),
        (4.1, b"X: 1", True, True),
        (29.0, b"X: 1", True, True),
        (31.0, b"X: 1", True, False),
        (1.9, b"Keep-Alive: timeout=3", False, True),
        (2.1, b"Keep-Alive: timeout=3", False, False),
        (2.1, b"Keep-Alive: timeout=3", True, False),
        (3.9, b"Keep-Alive: timeout=60", False, True),
        (4.1, b"Keep-Alive: timeout=60", False, False),
        (0.0, b"Keep-Alive: timeout=0", True, False),
    ],
)
async def test_how_long_a_connection_may_have_been_idle(scripted, pool, idle, field, retry_safe, reused):
    async def play(reader, writer, number):
        while True:
            await read_request(reader)
            writer.write(answer(b"ok", field))

    script = await scripted(play)
    one = pool(script.url)
    await fetch(one)
    one._idle[0].idle_since -= idle
    await fetch(one, retry_safe=retry_safe)
    assert script.connections == (1 if reused else 2)


async def test_an_old_connection_is_replaced(scripted, pool):
    script = await scripted(serve_all)
    one = pool(script.url)
    await fetch(one)
    one._idle[0].born -= 301
    await fetch(one)
    assert script.connections == 2 and one.stats().idle == 1


async def test_calls_in_flight_are_not_touched_by_tidying(scripted, pool, eventually):
    gate = asyncio.Event()

    async def slow(reader, writer, number):
        await gate.wait()
        await serve_all(reader, writer, number)

    script = await scripted(slow)
    one = pool(script.url)
    call = asyncio.ensure_future(fetch(one))
    await eventually(lambda: one.stats().in_use == 1)
    assert await one.tidy() == (1, 0, 0, 1)
    gate.set()
    assert await call == b"/ x"


async def test_more_calls_than_may_wait_are_told_at_once(scripted, pool, monkeypatch, eventually):
    monkeypatch.setattr("mcpbridge.transports.http1.pool.MAX_WAITING", 2)
    gate = asyncio.Event()

    async def slow(reader, writer, number):
        await gate.wait()
        await serve_all(reader, writer, number)

    script = await scripted(slow)
    one = pool(script.url, max_size=1)
    calls = [asyncio.ensure_future(fetch(one)) for _ in range(3)]
    await eventually(lambda: one.stats().waiting == 2)
    with pytest.raises(BridgeError) as refused:
        await fetch(one)
    assert (refused.value.reason, refused.value.sent) == ("server_busy", False)
    assert "2 calls wait" in str(refused.value)
    gate.set()
    assert await asyncio.gather(*calls) == [b"/ x"] * 3


async def test_idle_connections_are_closed_after_their_time(scripted, pool, eventually):
    script = await scripted(serve_all)
    one = pool(script.url, idle_timeout=0.02)
    await asyncio.gather(*[fetch(one) for _ in range(3)])
    await eventually(lambda: script.ended == 3)
    assert one.stats().idle == 0 and one._timer is None
    assert await fetch(one) == b"/ x"


async def test_bytes_on_an_idle_connection_end_it(scripted, pool, eventually):
    go = asyncio.Event()

    async def play(reader, writer, number):
        await read_request(reader)
        writer.write(answer())
        if number == 1:
            await go.wait()
            writer.write(answer(b"poison"))
        await reader.read()

    script = await scripted(play)
    one = pool(script.url)
    await fetch(one)
    go.set()
    await eventually(lambda: one.stats().idle == 0)
    assert await fetch(one) == b"ok" and script.connections == 2


async def test_a_connection_the_server_closed_is_not_used_again(scripted, pool, eventually):
    async def play(reader, writer, number):
        await read_request(reader)
        writer.write(answer())

    script = await scripted(play)
    one = pool(script.url)
    for _ in range(3):
        assert await fetch(one) == b"ok"
        await eventually(lambda: one.stats().idle == 0)
    assert script.connections == 3 and one.stats().hits == 0


# -- once or twice


def dying(requests: list[bytes], first: bytes = b""):
    """Answers one request per connection; the second on the first connection gets ``first`` and the end."""

    async def play(reader, writer, number):
        _, body = await read_request(reader)
        requests.append(body)
        writer.write(answer())
        _, body = await read_request(reader)
        requests.append(body)
        writer.write(first if number == 1 else answer())
        if number > 1:
            await reader.read()

    return play


async def test_a_kept_connection_that_dies_in_silence_costs_a_retry_safe_call_nothing(scripted, pool):
    requests: list[bytes] = []
    script = await scripted(dying(requests))
    one = pool(script.url)
    await fetch(one, body=b"1")
    assert await fetch(one, body=b"2", retry_safe=True) == b"ok"
    assert requests == [b"1", b"2", b"2"] and script.connections == 2


async def test_a_call_that_must_not_run_twice_is_never_sent_twice(scripted, pool):
    requests: list[bytes] = []
    script = await scripted(dying(requests))
    one = pool(script.url)
    await fetch(one, body=b"1")
    with pytest.raises(BridgeError) as caught:
        await fetch(one, body=b"2")
    assert (caught.value.reason, caught.value.sent) == ("stream_closed", True)
    assert requests == [b"1", b"2"]


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])
async def test_a_call_whose_answer_began_is_never_sent_twice(scripted, pool, first):
    requests: list[bytes] = []
    one = pool((await scripted(dying(requests, first))).url)
    await fetch(one, body=b"1")
    with pytest.raises(BridgeError) as caught:
        await fetch(one, body=b"2", retry_safe=True)
    assert caught.value.reason == "stream_closed"
    assert requests == [b"1", b"2"]


async def test_a_fresh_connection_that_dies_is_not_tried_again(scripted, pool):
    async def play(reader, writer, number):
        await read_request(reader)

    script = await scripted(play)
    with pytest.raises(BridgeError) as caught:
        await fetch(pool(script.url), retry_safe=True)
    assert caught.value.reason == "stream_closed" and script.connections == 1


# -- a full pool


async def test_a_full_pool_makes_calls_wait_their_turn(scripted, pool, eventually):
    most = 0
    running = 0
    go = asyncio.Event()

    async def play(reader, writer, number):
        nonlocal most, running
        while True:
            _, body = await read_request(reader)
            running += 1
            most = max(most, running)
            await go.wait()
            running -= 1
            writer.write(answer(body))

    script = await scripted(play)
    one = pool(script.url, max_size=2)
    calls = asyncio.gather(*[fetch(one, body=b"%d" % n) for n in range(10)])
    await eventually(lambda: running == 2 and one.stats().waiting == 8)
    go.set()
    assert await calls == [b"%d" % n for n in range(10)]
    assert most == 2 and script.connections == 2 and one.stats()[2:5] == (0, 2, 0)


async def test_a_call_that_waited_too_long_is_told_that_the_server_is_busy(scripted, pool, monkeypatch, eventually):
    monkeypatch.setattr("mcpbridge.transports.http1.pool.QUEUE_TIME", 0.02)

    async def play(reader, writer, number):
        await reader.read()

    one = pool((await scripted(play)).url, max_size=1)
    stuck = asyncio.get_running_loop().create_task(ask(one))
    await eventually(lambda: one.stats().in_use == 1)
    with pytest.raises(BridgeError) as caught:
        await fetch(one)
    assert (caught.value.reason, caught.value.sent) == ("server_busy", False)
    assert one.stats().waiting == 0
    stuck.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stuck


async def test_a_cancelled_waiter_hands_its_turn_on(scripted, pool, eventually):
    go = asyncio.Event()

    async def play(reader, writer, number):
        while True:
            _, body = await read_request(reader)
            await go.wait()
            writer.write(answer(body))

    one = pool((await scripted(play)).url, max_size=1)
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(fetch(one, body=b"%d" % n)) for n in range(4)]
    await eventually(lambda: one.stats().waiting == 3)
    tasks[1].cancel()
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError) and results[::2] == [b"0", b"2"] and results[3] == b"3"


async def test_connections_that_are_too_old_for_a_call_make_room_for_a_new_one(scripted, pool):
    script = await scripted(serve_all)
    one = pool(script.url, max_size=1)
    await fetch(one)
    one._idle[0].idle_since -= 10
    await fetch(one)
    assert script.connections == 2 and one.stats().idle == 1


async def test_how_long_a_call_waits_is_the_owners_choice(scripted, pool, eventually):
    go = asyncio.Event()

    async def play(reader, writer, number):
        while True:
            await read_request(reader)
            await go.wait()
            writer.write(answer(b"late"))

    script = await scripted(play)
    patient, hasty = pool(script.url, max_size=1), pool(script.url, max_size=1, queue_time=0.01)
    loop = asyncio.get_running_loop()
    calls = [loop.create_task(fetch(one)) for one in (patient, patient, hasty)]
    await eventually(lambda: hasty.stats().in_use == 1)
    with pytest.raises(BridgeError, match="server busy"):
        await fetch(hasty)
    assert patient.stats().waiting == 1
    go.set()
    assert await asyncio.gather(*calls) == [b"late"] * 3


async def test_streams_that_last_take_no_place_of_calls_and_wait_for_none(scripted, pool, eventually):
    async def play(reader, writer, number):
        while True:
            head, body = await read_request(reader)
            if head.startswith("GET"):
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            else:
                writer.write(answer(body))

    script = await scripted(play)
    one = pool(script.url, max_size=2)
    streams = [await ask(one, "GET", body=b"", queued=False) for _ in range(5)]
    assert await asyncio.gather(*[fetch(one, body=b"%d" % n) for n in range(10)]) == [b"%d" % n for n in range(10)]
    assert script.connections == 7
    assert one.stats()[2:5] == (5, 2, 0)
    for stream in streams:
        await stream.aclose()
    assert one.stats()[2:5] == (0, 2, 0)


async def test_a_connection_of_its_own_is_not_kept_beyond_the_size_of_the_pool(scripted, pool, eventually):
    script = await scripted(serve_all)
    one = pool(script.url, max_size=1)
    await asyncio.gather(*[fetch(one, queued=False) for _ in range(4)])
    assert (script.connections, one.stats().idle, one.stats().in_use) == (4, 1, 0)


# -- connecting


async def test_nobody_listening_is_said_at_once_and_nothing_was_sent(pool, free_port):
    for url in (f"http://127.0.0.1:{free_port}", f"http://localhost:{free_port}", f"https://127.0.0.1:{free_port}"):
        with pytest.raises(BridgeError) as caught:
            async with asyncio.timeout(1):
                await fetch(pool(url))
        assert (caught.value.reason, caught.value.sent) == ("connection_refused", False)


async def test_an_unknown_name_is_said_without_address(pool):
    with pytest.raises(BridgeError) as caught:
        await fetch(pool("http://no-such-host.invalid:1"))
    assert (caught.value.reason, caught.value.sent) == ("backend_error", False)
    assert "invalid" not in str(caught.value)


async def test_connecting_has_its_time(scripted, pool, monkeypatch):
    async def never(addresses):
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("mcpbridge.transports.proxy.connect", never)
    one = pool("http://127.0.0.1:1", dial_timeout=0.02)
    with pytest.raises(BridgeError) as caught:
        await fetch(one)
    assert (caught.value.reason, caught.value.sent) == ("timeout", False)
    assert one.stats().in_use == 0


async def test_tls_is_spoken_and_verified(serve, pool, tls):
    server = await serve(ssl=tls.server)
    assert await fetch(pool(f"https://127.0.0.1:{server.port}", ssl=tls.client)) == b"x"
    assert await fetch(pool(f"https://localhost:{server.port}", ssl=tls.client)) == b"x"
    for context in (tls.stranger, None):
        with pytest.raises(BridgeError) as caught:
            await fetch(pool(f"https://127.0.0.1:{server.port}", ssl=context))
        assert (caught.value.reason, caught.value.sent) == ("backend_error", False)
        assert "certificate" in str(caught.value)


async def test_tls_towards_a_plain_server_and_plain_towards_tls_fail_clearly(serve, pool, tls):
    plain, secure = await serve(), await serve(ssl=tls.server)
    with pytest.raises(BridgeError) as caught:
        await fetch(pool(f"https://127.0.0.1:{plain.port}", ssl=tls.client))
    assert caught.value.reason == "backend_error" and not caught.value.sent
    response = await ask(pool(f"http://127.0.0.1:{secure.port}"))
    assert response.status == 400 and b"HTTPS" in await response.read()


@pytest.mark.parametrize("headers", [[("x", "a\r\nb: c")], [("x y", "a")], [("x", "\u20ac")]])
async def test_headers_that_would_split_the_request_are_refused_before_anything_is_sent(pool, headers):
    one = pool("http://127.0.0.1:1")
    with pytest.raises(BridgeError) as caught:
        await fetch(one, headers=headers)
    assert (caught.value.reason, caught.value.sent) == ("invalid_params", False)
    assert one.stats().misses == 0


@pytest.mark.parametrize("url", ["ftp://a", "http://", "a:1", "", "http://a:99999999"])
def test_a_url_that_is_not_an_http_origin_is_refused(url):
    with pytest.raises(ValueError):
        HttpPool(url)


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("http://Example.com/mcp", b"host: example.com\r\n", "http://example.com"),
        ("http://a:80", b"host: a\r\n", "http://a"),
        ("https://a:8443/x", b"host: a:8443\r\n", "https://a:8443"),
        ("http://[::1]:3000", b"host: [::1]:3000\r\n", "http://[::1]:3000"),
        ("http://bücher.example", b"host: xn--bcher-kva.example\r\n", "http://xn--bcher-kva.example"),
    ],
)
def test_the_origin_and_its_host_line(url, host, origin):
    one = HttpPool(url)
    assert (one._host_line, one.origin) == (host, origin)


# -- the end


async def test_a_closed_pool_ends_its_calls_and_takes_no_more(scripted, pool, eventually):
    async def play(reader, writer, number):
        await read_request(reader)
        if number == 1:
            writer.write(answer())
        await reader.read()

    script = await scripted(play)
    one = pool(script.url)
    await fetch(one)
    one._idle[0].idle_since -= 10
    call = asyncio.get_running_loop().create_task(fetch(one))
    await eventually(lambda: len(one._busy) == 1)
    await one.close()
    await one.close()
    with pytest.raises(BridgeError) as caught:
        await call
    assert caught.value.reason == "stream_closed"
    with pytest.raises(BridgeError) as caught:
        await fetch(one)
    assert (caught.value.reason, caught.value.sent) == ("draining", False)
    assert one.stats()[2:4] == (0, 0)


async def test_thousands_of_calls_find_their_own_answers(serve, pool):
    server = await serve()
    one = pool(f"http://127.0.0.1:{server.port}", max_size=16)

    async def many(start: int) -> None:
        for n in range(start, start + 50):
            assert await fetch(one, body=b"%d" % n) == b"%d" % n

    await asyncio.gather(*[many(worker * 1000) for worker in range(40)])
    stats = one.stats()
    assert stats.hits + stats.misses == 2000 and stats.in_use == 0 and stats.misses <= 16
