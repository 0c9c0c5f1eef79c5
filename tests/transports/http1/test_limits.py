"""What a client may not do: send too much, too slowly, connect too often, read too slowly. Time is told, not waited for."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.http_gate import GET, NEXT, Gate, chunked, post
from tests.support.http_vectors import request

# -- sizes


@pytest.mark.requirement("limit.body")
@pytest.mark.parametrize("make", [post, chunked], ids=["length", "chunked"])
async def test_a_body_at_the_limit_passes_and_one_byte_more_is_413(serve, connect, make):
    server = await serve(max_body=1000)
    client = await connect(server)
    client.send(make(b"x" * 1000))
    assert (await client.answer()).status == 200
    client.send(make(b"x" * 1001), NEXT)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert await client.rest() == b""
    assert len(server.seen) == 1


async def test_a_body_that_is_too_large_is_refused_before_it_is_sent(serve, connect):
    client = await connect(await serve())
    client.send(request(b"POST / HTTP/1.1", b"Content-Length: 2000000"))
    assert (await client.answer()).status == 413
    other = await connect(await serve())
    other.send(request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"), b"1E8480\r\n")
    assert (await other.answer()).status == 413


async def test_a_client_that_sends_its_large_body_first_still_reads_why_it_was_refused(serve, connect):
    client = await connect(await serve())
    client.send(post(b"x" * 2_000_000))
    async with asyncio.timeout(5):
        await client.writer.drain()
    assert (await client.answer()).status == 413


async def test_a_refused_client_that_never_stops_sending_is_cut(serve, connect, eventually):
    server = await serve()
    client = await connect(server)
    client.send(post(b"x" * 20_000_000))
    await eventually(lambda: server.refused[413] == 1 and not server._connections)
    assert client.writer.transport.get_write_buffer_size() > 0 or client.writer.is_closing()


async def test_admission_sets_the_limit_of_each_request(serve, connect):
    server = await serve(admit=lambda head, peer: 5 if head.path == "/small" else 10)
    client = await connect(server)
    client.send(post(b"x" * 10), post(b"x" * 10, path=b"/small"))
    assert [(await client.answer()).status for _ in range(2)] == [200, 413]


@pytest.mark.requirement("limit.headers")
@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("cut", [10, 10**6])
async def test_a_head_at_the_limit_passes_and_one_byte_more_is_431(serve, connect, over, cut):
    server = await serve(max_header=2000)
    start, end = b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"\r\n\r\n"
    raw = start + b"x" * (2000 - len(start) - len(end) + over) + end
    client = await connect(server)
    client.send(raw[:cut])
    await client.writer.drain()
    client.send(raw[cut:])
    assert (await client.answer()).status == (431 if over else 200)


async def test_a_head_without_end_is_refused_when_it_is_too_large(serve, connect):
    client = await connect(await serve())
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X: y\r\n" * 6000)
    assert (await client.answer()).status == 431
    other = await connect(await serve())
    other.send(b"GET /" + b"a" * 9000)
    assert (await other.answer()).status == 414


async def test_reading_pauses_while_a_request_runs_and_more_waits_behind_it(serve, connect, eventually):
    gate = Gate()
    server = await serve(gate)
    client = await connect(server)
    client.send(GET, *[post(b"x" * 100_000)] * 60)
    await eventually(lambda: any(one._read_paused for one in server._connections))
    connection = next(iter(server._connections))
    held = len(connection._buffer)
    assert 65536 < held < 65536 + 262145
    assert client.writer.transport.get_write_buffer_size() > 0
    gate.open.set()
    assert [(await client.answer()).status for _ in range(61)] == [200] * 61


async def test_a_pipelining_client_that_does_not_read_gets_no_more_answers(serve, connect, eventually):
    body = b"x" * 200_000

    async def handler(request, responder):
        await responder.respond(200, [], body)

    server = await serve(handler)
    client = await connect(server)
    client.reader._transport.pause_reading()
    client.send(GET * 500)
    await eventually(lambda: any(one._backlog and one._read_paused for one in server._connections))
    assert len(server.seen) < 100
    connection = next(iter(server._connections))
    assert connection._transport.get_write_buffer_size() < 1_000_000
    client.reader._transport.resume_reading()
    assert [len((await client.answer()).body) for _ in range(500)] == [200_000] * 500


# -- connections


@pytest.mark.requirement("limit.per-ip")
async def test_one_address_may_hold_so_many_connections_and_no_more(serve, connect, eventually):
    server = await serve(max_connections_per_ip=3)
    held = [await connect(server) for _ in range(3)]
    await eventually(lambda: server.connections == 3)
    refused = await connect(server)
    answer = await refused.answer()
    assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (429, "1", "close")
    other = await connect(server, local_addr=("127.0.0.2", 0))
    for client in (*held, other):
        client.send(GET)
        assert (await client.answer()).status == 200
    await held[0].close()
    await eventually(lambda: server.connections == 3)
    again = await connect(server)
    again.send(GET)
    assert (await again.answer()).status == 200


async def test_all_addresses_together_may_hold_so_many_connections(serve, connect, eventually):
    server = await serve(max_connections=2)
    held = [await connect(server) for _ in range(2)]
    await eventually(lambda: server.connections == 2)
    assert (await (await connect(server)).answer()).status == 503
    for client in held:
        client.send(GET)
        assert (await client.answer()).status == 200


async def test_refused_connections_that_linger_are_bounded(serve, connect, monkeypatch, eventually):
    monkeypatch.setattr("mcpbridge.transports.http1.server.MAX_LINGERING", 3)
    server = await serve(max_connections=0)
    clients = [await connect(server) for _ in range(8)]
    await eventually(lambda: server.refused[503] == 8 and len(server._connections) == 3)
    assert len([client for client in clients if (await client.answer()).status == 503]) == 8


async def test_a_tls_port_refuses_before_the_handshake(serve, connect, tls, eventually):
    server = await serve(ssl=tls.server, max_connections_per_ip=1)
    client = await connect(server, ssl=tls.client)
    assert await (await connect(server)).is_cut()
    assert server.refused[429] == 1
    client.send(GET)
    assert (await client.answer()).status == 200
    await client.close()
    await eventually(lambda: server.connections == 0)
    client = await connect(server, ssl=tls.client)
    client.send(GET)
    assert (await client.answer()).status == 200


# -- time


def later(server, seconds):
    """The server looks at its connections as if so much time had passed."""
    server.sweep(server.now + seconds, 0.0)


async def test_a_head_that_does_not_end_is_given_up_after_ten_seconds(serve, connect, eventually):
    server = await serve()
    clients = [await connect(server) for _ in range(3)]
    for client, data in zip(clients, (b"GET / HTTP/1.1\r\nHost:", b"G", b"\r"), strict=True):
        client.send(data)
    await eventually(lambda: sum(one._has_begun for one in server._connections) == 3)
    later(server, 9)
    assert not server.refused
    for client in clients:
        client.send(b"")  # more bytes of the same head do not buy time
    later(server, 2)
    assert [(await client.answer()).status for client in clients] == [408] * 3


async def test_a_second_head_has_its_own_ten_seconds(serve, connect, eventually):
    server = await serve()
    client = await connect(server)
    client.send(GET[:5])
    await eventually(lambda: any(one._has_begun for one in server._connections))
    later(server, 9)
    client.send(GET[5:])
    await client.answer()
    later(server, 9)
    client.send(GET[:5])
    await eventually(lambda: any(one._has_begun for one in server._connections))
    later(server, 9)
    client.send(GET[5:])
    assert (await client.answer()).status == 200


async def test_a_body_must_bring_a_kibibyte_per_second(serve, connect, eventually):
    server = await serve()
    slow, fast = await connect(server), await connect(server)
    for client in (slow, fast):
        client.send(request(b"POST / HTTP/1.1", b"Content-Length: 100000"))
    await eventually(lambda: sum(one._incoming is not None for one in server._connections) == 2)
    slow.send(b"x" * 5000)
    fast.send(b"x" * 6000)
    await eventually(lambda: sum(one._incoming._received for one in server._connections) == 11000)
    later(server, 5.1)
    assert (await slow.answer()).status == 408
    fast.send(b"x" * 94000)
    assert (await fast.answer()).status == 200


async def test_a_body_that_began_fast_and_stops_is_given_up(serve, connect, eventually):
    server = await serve()
    client = await connect(server)
    client.send(request(b"POST / HTTP/1.1", b"Content-Length: 100000"), b"x" * 99_999)
    await eventually(lambda: any(one._incoming and one._incoming._received == 99_999 for one in server._connections))
    later(server, 5.1)
    assert server.refused[408] == 0
    later(server, 5.1)
    assert (await client.answer()).status == 408


async def test_idle_connections_live_for_their_time_and_running_requests_longer(serve, connect, eventually):
    gate = Gate()
    server = await serve(gate)
    fresh, used, busy = await connect(server), await connect(server), await connect(server)
    gate.open.set()
    used.send(GET)
    await used.answer()
    gate.open.clear()
    busy.send(GET)
    await eventually(lambda: gate.running == 1 and server.connections == 3)
    later(server, 299)
    assert server.connections == 3
    later(server, 2)
    assert await fresh.rest() == await used.rest() == b""
    later(server, 10_000)
    gate.open.set()
    assert (await busy.answer()).status == 200


async def test_under_overload_connections_go_that_were_idle_for_a_second_though_times_are_known_to_a_tick_only(serve, connect):
    server = await serve()
    client = await connect(server)
    client.send(GET)
    await client.answer()
    later(server, 1.05)  # it may have answered a moment ago, at the end of the tick before
    server.shed(True)
    assert server.connections == 1
    server.shed(False)
    later(server, 1)
    server.shed(True)
    assert await client.rest() == b""


async def test_a_lingering_connection_is_cut_after_its_time(serve, connect):
    server = await serve(max_body=1)
    client = await connect(server)
    client.send(post(b"xx"))
    await client.answer()
    later(server, 6)
    assert await client.is_cut()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_stops_reading_is_cut_after_half_a_minute(serve, connect, eventually, stream):
    gone = asyncio.Event()

    async def handler(request, responder):
        responder.on_gone = gone.set
        if stream:
            responder.start_now(200)
            while not responder.gone:
                responder.send(b"x" * 65536)
                await responder.drain()
            await responder.end()
        else:
            await responder.respond(200, [], b"x" * 50_000_000)

    server = await serve(handler)
    client = await connect(server)
    client.reader._transport.pause_reading()
    client.send(GET)
    await eventually(lambda: any(one._backlog for one in server._connections))
    later(server, 29)
    assert not gone.is_set()
    later(server, 2)
    async with asyncio.timeout(5):
        await gone.wait()
    await eventually(lambda: server.connections == 0)


async def test_answers_carry_the_present_date(serve, connect):
    server = await serve()
    client = await connect(server)
    server.sweep(server.now, 784111777.0)
    client.send(GET)
    assert (await client.answer()).headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
