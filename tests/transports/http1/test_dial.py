"""Addresses in turn, staggered, and names that do not resolve any more."""

from __future__ import annotations

import asyncio
import socket

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1 import dial
from mcpbridge.transports.http1.dial import Resolver, connect


@pytest.fixture
async def port():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


V4, V6 = socket.AF_INET, socket.AF_INET6


async def test_a_refused_address_gives_way_at_once(port, free_port):
    sock = await connect([(V4, ("127.0.0.1", free_port)), (V4, ("127.0.0.1", port))])
    with sock:
        assert sock.getpeername() == ("127.0.0.1", port)


async def test_an_address_that_never_answers_is_overtaken(port, monkeypatch):
    monkeypatch.setattr(dial, "STAGGER", 0.01)
    real = dial._connect
    ended = asyncio.Event()

    async def hanging(family, address):
        if address[1] == 1:
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()
        return await real(family, address)

    monkeypatch.setattr(dial, "_connect", hanging)
    async with asyncio.timeout(5):
        sock = await connect([(V4, ("127.0.0.1", 1)), (V4, ("127.0.0.1", port))])
    with sock:
        assert sock.getpeername()[1] == port and ended.is_set()


async def test_when_all_addresses_fail_the_first_reason_is_told(free_port):
    with pytest.raises(ConnectionRefusedError):
        await connect([(V4, ("127.0.0.1", free_port)), (V4, ("127.0.0.2", free_port))])


async def test_families_alternate(monkeypatch):
    found: list[dial.Address] = [*((V6, f"6-{n}") for n in range(3)), *((V4, f"4-{n}") for n in range(2))]
    assert [address for _, address in dial._alternate(found)] == ["6-0", "4-0", "6-1", "4-1", "6-2"]


async def test_a_literal_needs_no_resolver(monkeypatch):
    monkeypatch.setattr(asyncio.get_running_loop().__class__, "getaddrinfo", None, raising=False)
    assert await Resolver("127.0.0.1", 80).resolve() == [(V4, ("127.0.0.1", 80))]
    assert [family for family, _ in await Resolver("::1", 80).resolve()] == [V6]


async def test_known_addresses_are_used_on_while_the_resolver_fails(monkeypatch):
    resolver = Resolver("localhost", 80)
    known = await resolver.resolve()
    assert known
    resolver._host = "localhost.invalid"
    assert await resolver.resolve() == known
    resolver._known_at -= 301
    with pytest.raises(BridgeError) as caught:
        await resolver.resolve()
    assert (caught.value.reason, caught.value.sent) == ("backend_error", False)
