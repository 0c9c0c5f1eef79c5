"""The hand-over of a connection to another protocol: nothing is lost, and the server keeps it within its limits."""

from __future__ import annotations

import asyncio
from typing import cast

from mcpbridge.transports.http1.server import HttpRequest, Responder, Upgraded
from tests.transports.http1.conftest import Connect, Raw, Serve

HEAD = b"GET /up HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: Shout\r\n\r\n"


class Shout(Upgraded):
    """Sends everything back in capitals."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.is_full = False
        self.told = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data.upper())

    def pause_writing(self) -> None:
        self.is_full = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set()

    def going_away(self) -> None:
        self.told += 1
        self.transport.write(b"BYE")
        self.transport.close()


class Shouting:
    """A handler that upgrades who asks for it."""

    def __init__(self) -> None:
        self.shouts: list[Shout] = []
        self.ended = 0

    async def __call__(self, request: HttpRequest, responder: Responder) -> None:
        if not request.upgrades_to("shout"):
            await responder.respond(200, (), b"plain")
            return
        shout = Shout()
        self.shouts.append(shout)
        responder.upgrade([("upgrade", "shout")], shout, lambda: self._talk(shout))

    async def _talk(self, shout: Shout) -> None:
        try:
            await shout.over.wait()
        finally:
            self.ended += 1


async def shouted(raw: Raw, *data: bytes) -> None:
    raw.send(HEAD, *data)
    answer = await raw.answer()
    assert (answer.status, answer.headers["upgrade"], answer.headers["connection"]) == (101, "shout", "upgrade")


async def echoed(raw: Raw, data: bytes) -> None:
    async with asyncio.timeout(5):
        assert await raw.reader.readexactly(len(data)) == data.upper()


async def test_bytes_behind_the_head_belong_to_the_new_protocol_and_so_does_all_that_follows(serve: Serve, connect: Connect):
    raw = await connect(await serve(Shouting()))
    await shouted(raw, b"early")
    await echoed(raw, b"early")
    raw.send(b"GET / HTTP/1.1\r\n\r\n")
    await echoed(raw, b"GET / HTTP/1.1\r\n\r\n")


async def test_a_body_of_the_request_is_read_before_and_is_no_part_of_the_new_protocol(serve: Serve, connect: Connect):
    raw = await connect(await serve(Shouting()))
    raw.send(HEAD.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"), b"after")
    assert (await raw.answer()).status == 101
    await echoed(raw, b"after")


async def test_an_upgraded_connection_counts_against_the_limits_until_it_ends(serve: Serve, connect: Connect, eventually):
    server = await serve(Shouting(), max_connections_per_ip=1)
    raw = await connect(server)
    await shouted(raw)
    assert server.connections == 1
    second = await connect(server)
    second.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await second.answer()).status == 429
    await raw.close()
    await second.close()
    await eventually(lambda: server.connections == 0)
    third = await connect(server)
    third.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await third.answer()).body == b"plain"


async def test_the_request_times_of_http_do_not_end_it(serve: Serve, connect: Connect):
    server = await serve(Shouting(), idle_timeout=1, header_timeout=1)
    raw = await connect(server)
    await shouted(raw)
    server.sweep(server.now + 1000, 0.0)
    raw.send(b"still here")
    await echoed(raw, b"still here")


async def test_draining_tells_it_once_and_waits_for_its_end(serve: Serve, connect: Connect, eventually):
    handler = Shouting()
    server = await serve(handler)
    raw = await connect(server)
    await shouted(raw)
    async with asyncio.timeout(5):
        await server.drain(5)
    assert await raw.rest() == b"BYE"
    await eventually(lambda: handler.ended == 1)
    assert (handler.shouts[0].told, server.connections) == (1, 0)


async def test_a_server_that_closes_cuts_it_and_ends_its_task(serve: Serve, connect: Connect):
    handler = Shouting()
    server = await serve(handler)
    raw = await connect(server)
    await shouted(raw)
    async with asyncio.timeout(5):
        await server.close()
    assert await raw.is_cut()
    assert handler.ended == 1


async def test_it_ends_with_the_task_that_serves_it(serve: Serve, connect: Connect):
    async def talk() -> None:
        return None

    async def leave(request: HttpRequest, responder: Responder) -> None:
        responder.upgrade([("upgrade", "shout")], Shout(), talk)

    raw = await connect(await serve(leave))
    await shouted(raw)
    assert await raw.rest() == b""


async def test_its_writer_is_told_when_the_client_does_not_read(serve: Serve, connect: Connect, eventually):
    handler = Shouting()
    raw = await connect(await serve(handler))
    await shouted(raw)
    handler.shouts[0].transport.write(b"x" * (1 << 24))
    await eventually(lambda: handler.shouts[0].is_full)


async def test_http_1_0_and_a_request_without_the_connection_option_are_no_upgrade(serve: Serve, connect: Connect):
    server = await serve(Shouting())
    for head in (HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"), HEAD.replace(b"keep-alive, Upgrade", b"keep-alive")):
        raw = await connect(server)
        raw.send(head)
        assert (await raw.answer()).body == b"plain"


async def test_over_tls_it_is_the_same(serve: Serve, connect: Connect, tls):
    raw = await connect(await serve(Shouting(), ssl=tls.server), ssl=tls.client, server_hostname="localhost")
    await shouted(raw, b"early")
    await echoed(raw, b"early")
