"""Listening sockets: TLS, other protocols, limits over all connections, the end."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from mcpbridge.transports.doors import address_key
from tests.support.http_gate import GET, NEXT, Gate, post

# -- TLS and first bytes


async def test_requests_come_over_tls_and_answers_carry_its_headers(serve, connect, tls):
    server = await serve(ssl=tls.server, tls_headers=[("strict-transport-security", "max-age=1")])
    client = await connect(server, ssl=tls.client)
    client.send(post(b"x" * 100000))
    answer = await client.answer()
    assert answer.body == b"x" * 100000 and answer.headers["strict-transport-security"] == "max-age=1"
    assert server.seen[0].tls and server.seen[0].peer == "127.0.0.1" and server.connections == 1


async def test_plain_http_on_a_tls_port_gets_a_readable_answer(serve, connect, tls, eventually):
    server = await serve(ssl=tls.server, base_headers=[("x-content-type-options", "nosniff")])
    client = await connect(server)
    client.send(GET)
    answer = await client.answer()
    assert answer.status == 400 and b"https://" in answer.body and answer.headers["x-content-type-options"] == "nosniff"
    assert await client.rest() == b""
    await client.close()
    await eventually(lambda: server.connections == 0)


async def test_tls_on_a_plaintext_port_is_closed_with_one_line(serve, connect, tls, capsys):
    server = await serve()
    for _ in range(3):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await connect(server, ssl=tls.client)
    assert capsys.readouterr().err.count("TLS client") == 1
    assert server.seen == []


async def test_a_failed_handshake_frees_its_place(serve, connect, tls, eventually):
    server = await serve(ssl=tls.server)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await connect(server, ssl=tls.stranger, server_hostname="localhost")
    for data in (b"\x16\x03\x01\x00\x05garbage", b"\x00\x01"):
        client = await connect(server)
        client.send(data)
        assert await client.ends()
    await (await connect(server)).close()
    await eventually(lambda: server.connections == 0)
    assert server.seen == []


async def test_a_silent_handshake_is_ended(serve, connect, tls, monkeypatch, eventually):
    monkeypatch.setattr("mcpbridge.transports.doors.HANDSHAKE_TIME", 0.05)
    server = await serve(ssl=tls.server)
    silent, slow = await connect(server), await connect(server)
    slow.send(b"\x16\x03\x01")
    assert await silent.is_cut() and await slow.is_cut()
    await eventually(lambda: server.connections == 0)


class Other(asyncio.Protocol):
    """Another protocol on the same port."""

    def connection_made(self, transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"got " + data)


async def test_another_protocol_can_take_over_by_its_first_bytes(serve, connect):
    def sniff(first: bytes) -> asyncio.Protocol | None:
        return Other() if first.startswith(b"MCPB") else None

    server = await serve(sniff=sniff)
    client = await connect(server)
    client.send(b"MCP")
    await client.writer.drain()
    client.send(b"B\x00\x01")
    async with asyncio.timeout(5):
        assert await client.reader.readexactly(10) == b"got MCPB\x00\x01"
        client.send(b"more")
        assert await client.reader.readexactly(8) == b"got more"
    other = await connect(server)
    other.send(b"\x00\x01")
    assert (await other.answer()).status == 400
    third = await connect(server)
    third.send(GET)
    assert (await third.answer()).status == 200
    client.writer.write_eof()


@pytest.mark.parametrize(
    "first", [b"SSH-2.0-x\r\n", b"\x00\x00\x00\x01", b'{"jsonrpc":"2.0"}\n', b"EHLO x\r\n", b"GET /\r\n", b"GET / HTTP/1.1\n\n"]
)
async def test_what_is_not_http_is_refused_at_once(serve, connect, first):
    client = await connect(await serve())
    client.send(first)
    assert (await client.answer()).status == 400
    assert await client.rest() == b""


# -- the end


async def test_draining_closes_idle_connections_and_lets_requests_finish(serve, connect, eventually):
    gate = Gate()
    server = await serve(gate)
    idle, busy = await connect(server), await connect(server)
    busy.send(GET, NEXT)
    await gate.entered.wait()
    await eventually(lambda: server.connections == 2)
    server.stop_accepting()
    draining = asyncio.get_running_loop().create_task(server.drain(5))
    assert await idle.rest() == b""
    assert not draining.done()
    gate.open.set()
    answer = await busy.answer()
    assert (answer.body, answer.headers["connection"]) == (b"/a", "close")
    assert await busy.rest() == b""
    async with asyncio.timeout(5):
        await draining
    with pytest.raises(OSError):
        await connect(server)
    assert len(server.seen) == 1


async def test_announcing_ends_connections_by_their_answers_and_takes_new_ones(serve, connect):
    server = await serve()
    old = await connect(server)
    old.send(GET)
    assert "connection" not in (await old.answer()).headers
    server.announce()
    for client in (old, await connect(server)):
        client.send(GET)
        assert (await client.answer()).headers["connection"] == "close"
        assert await client.rest() == b""


async def test_draining_answers_a_request_that_was_under_way_on_a_connection_just_used(serve, connect):
    server = await serve()
    used, silent = await connect(server), await connect(server)
    for client in (used, silent):
        client.send(GET)
        await client.answer()
    server.stop_accepting()
    draining = asyncio.get_running_loop().create_task(server.drain(5))
    await asyncio.sleep(0)
    used.send(GET)
    assert (await used.answer()).headers["connection"] == "close"
    assert await used.rest() == b"" and server.connections == 1
    server.sweep(server.now + 2, 0.0)
    assert await silent.rest() == b""
    async with asyncio.timeout(5):
        await draining


async def test_draining_gives_up_after_its_time_and_close_cuts(serve, connect):
    gate = Gate()
    server = await serve(gate)
    client = await connect(server)
    client.send(GET)
    await gate.entered.wait()
    await server.drain(0.01)
    assert server.connections == 1 and not gate.cancelled.is_set()
    await server.close()
    assert gate.cancelled.is_set() and server.connections == 0
    assert await client.is_cut()
    await server.close()


async def test_a_tls_port_stops_accepting_too(serve, connect, tls):
    server = await serve(ssl=tls.server)
    client = await connect(server, ssl=tls.client)
    server.stop_accepting()
    with pytest.raises(OSError):
        await connect(server, ssl=tls.client)
    client.send(GET)
    assert (await client.answer()).status == 200


async def test_closing_ends_handshakes_too(serve, connect, tls, eventually):
    server = await serve(ssl=tls.server)
    silent = await connect(server)
    await eventually(lambda: server.connections == 1)
    await server.close()
    assert server.connections == 0
    assert await silent.is_cut()


async def test_a_host_with_two_addresses_gets_one_port(serve):
    server = await serve(host="localhost")
    assert server.port > 0
    assert len({sock.getsockname()[1] for listener in server._listeners for sock in listener.sockets}) == 1


async def test_a_taken_port_is_an_error(serve):
    server = await serve()
    other = await serve()
    with pytest.raises(OSError):
        await other.start(server.host, server.port)


# -- address keys


@pytest.mark.parametrize(
    ("peer", "key"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_addresses_are_counted_by_network(peer, key):
    assert address_key(peer) == key
