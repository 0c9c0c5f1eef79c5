"""The health port, as probes of every kind see it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from mcpbridge.transports.tcp_binary import health
from mcpbridge.transports.tcp_binary.health import TcpHealth
from tests.support.mcpb_client import HEALTH, client, frame

pytestmark = pytest.mark.requirement("http.gateway.tcp-health")


class Port(TcpHealth):
    now = (True, "ok")
    port = 0
    is_ready = True


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port(lambda: port.now, lambda: port.is_ready)
    _host, port.port = await port.start("127.0.0.1", 0)
    yield port
    await port.close()


async def told(port: Port, data: bytes = b"", *, half_close: bool = False) -> object:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(data)
        if half_close:
            writer.write_eof()
        line = await reader.read()
        writer.close()
    assert line.endswith(b"\n")
    return json.loads(line)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"x", b"\n", frame(6, b"{}"), frame(HEALTH, bytes(126))])
async def test_whatever_is_no_health_frame_gets_one_line(port, data):
    assert await told(port, data) == {"healthy": True, "status": "ok"}
    port.now = (False, "down")
    assert await told(port, data) == {"healthy": False, "status": "down"}


@pytest.mark.parametrize("data", [b"", b"MCPB\0\1", frame(HEALTH, b"abc")[:-1]])
async def test_a_half_close_and_a_second_of_silence_get_it_too(port, data):
    assert await told(port, data, half_close=True) == {"healthy": True, "status": "ok"}
    began = asyncio.get_running_loop().time()
    assert await told(port, data) == {"healthy": True, "status": "ok"}
    assert 0.9 < asyncio.get_running_loop().time() - began < 2.0


async def test_a_health_frame_gets_a_health_frame_as_often_as_it_is_asked_and_no_line_behind_it(port):
    async with client(port.port, negotiated=False) as peer:
        for payload in (b"", b"a", bytes(125)):
            await peer.alive(payload)
        await peer.end()


async def test_it_is_refused_while_we_are_not_ready(port, monkeypatch, eventually):
    monkeypatch.setattr(health, "LOOK", 0.01)
    following = asyncio.ensure_future(port.follow())
    for _ in range(2):
        assert await told(port, b"x")
        port.is_ready = False
        await eventually(lambda: not port._listeners)
        with pytest.raises(ConnectionRefusedError):
            await told(port)
        port.is_ready = True
        await eventually(lambda: port._listeners)
    port.stop_accepting()
    await following
    with pytest.raises(ConnectionRefusedError):
        await told(port)


async def test_a_start_before_we_are_ready_takes_the_port_and_opens_it_later():
    ready = False
    early = TcpHealth(lambda: (True, "ok"), lambda: ready)
    _host, number = await early.start("127.0.0.1", 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", number)
    ready = True
    await early.look()
    _reader, writer = await asyncio.open_connection("127.0.0.1", number)
    writer.close()
    await early.close()


async def test_probes_over_the_limit_are_cut_and_closing_cuts_the_others(port, monkeypatch):
    monkeypatch.setattr(health, "MAX_OPEN", 2)
    async with client(port.port, negotiated=False) as one, client(port.port, negotiated=False) as two:
        await one.alive()
        await two.alive()
        async with client(port.port, negotiated=False) as three:
            await three.end()
        await port.close()
        await one.end()
        await two.end()
