"""The fault proxy: every fault does what it says, to its direction alone, and can be switched off while it runs."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator

import pytest

from tests.support.fault_proxy import Control, FaultProxy, Faults, dial, serve

PROGRAM = "tests/support/fault_proxy.py"


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what it gets; after the end of it, ``end of N``."""
    count = 0
    try:
        while data := await reader.read(65536):
            count += len(data)
            writer.write(data)
        writer.write(b"end of %d" % count)
        await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def upstream() -> AsyncIterator[str]:
    server = await serve("127.0.0.1:0", echo)
    async with server:
        yield "{}:{}".format(*server.sockets[0].getsockname()[:2])


@pytest.fixture
async def proxy(upstream) -> AsyncIterator[FaultProxy]:
    async with asyncio.timeout(5), FaultProxy(upstream) as proxy:
        yield proxy


async def round_trip(proxy: FaultProxy, data: bytes = b"ping") -> tuple[bytes, float]:
    """The echo on a new connection, and the seconds it took."""
    reader, writer = await dial(proxy.address)
    started = time.perf_counter()
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.readexactly(len(data)), 4), time.perf_counter() - started
    finally:
        writer.close()


async def test_without_faults_every_byte_passes(proxy):
    data = os.urandom(300_000)
    assert (await round_trip(proxy, data))[0] == data
    assert proxy.accepted == 1


async def test_latency_is_added_to_its_direction_and_ends_when_it_is_cleared(proxy):
    proxy.set(down=Faults(latency=0.15))
    assert (await round_trip(proxy))[1] >= 0.149
    proxy.set(up=Faults(latency=0.1), down=Faults(latency=0.1))
    assert (await round_trip(proxy))[1] >= 0.199
    proxy.set()
    assert (await round_trip(proxy))[1] < 0.1


async def test_jitter_varies_and_keeps_the_order(proxy):
    proxy.set(down=Faults(latency=0.05, jitter=0.05))
    reader, writer = await dial(proxy.address)
    taken, got = [], b""
    for number in range(6):
        started = time.perf_counter()
        writer.write(b"%d" % number)
        got += await reader.readexactly(1)
        taken.append(time.perf_counter() - started)
    writer.close()
    assert got == b"012345"
    assert max(taken) - min(taken) > 0.02


async def test_the_same_seed_draws_the_same(upstream):
    async def corrupted(seed: int) -> list[bytes]:
        async with FaultProxy(upstream, seed=seed) as proxy:
            proxy.set(down=Faults(corrupt=1))
            return [(await round_trip(proxy, bytes(3)))[0] for _ in range(8)]

    async with asyncio.timeout(5):
        first, again, other = await corrupted(7), await corrupted(7), await corrupted(8)
    assert first == again != other


async def test_bandwidth_limits_bytes_per_second(proxy):
    proxy.set(down=Faults(bandwidth=100_000))
    data = os.urandom(30_000)
    got, seconds = await round_trip(proxy, data)
    assert got == data
    assert 0.25 < seconds < 2


async def test_the_slicer_makes_small_writes_with_a_pause_between_them(proxy):
    proxy.set(down=Faults(slice=2, slice_delay=0.03))
    reader, writer = await dial(proxy.address)
    writer.write(b"abcdef")
    assert [await reader.read(100) for _ in range(3)] == [b"ab", b"cd", b"ef"]
    writer.close()


async def test_a_black_hole_accepts_and_never_answers_until_it_ends(proxy):
    proxy.set(up=Faults(black_hole=True))
    reader, writer = await dial(proxy.address)
    writer.write(b"ping")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)
    proxy.set()
    assert await reader.readexactly(4) == b"ping"
    writer.close()


async def test_a_reset_meets_open_connections_and_new_ones(proxy):
    reader, writer = await dial(proxy.address)
    writer.write(b"x")
    await reader.readexactly(1)
    proxy.set(down=Faults(reset=True))
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    reader, writer = await dial(proxy.address)
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    proxy.set()
    assert (await round_trip(proxy))[0] == b"ping"


async def test_some_answers_become_a_reset_and_the_others_arrive(proxy):
    proxy.set(down=Faults(reset_chance=0.5))
    outcomes = []
    for _ in range(40):
        reader, writer = await dial(proxy.address)
        writer.write(b"x")
        try:
            outcomes.append(bool(await reader.readexactly(1)))
        except ConnectionResetError:
            outcomes.append(False)
        writer.close()
    assert 8 < sum(outcomes) < 32


async def test_a_half_close_ends_one_direction_and_the_other_goes_on(proxy):
    reader, writer = await dial(proxy.address)
    writer.write(b"abc")
    await reader.readexactly(3)
    proxy.set(up=Faults(half_close=True))
    assert await reader.read() == b"end of 3"
    writer.close()


async def test_one_bit_of_the_byte_at_the_offset_is_flipped(proxy):
    proxy.set(down=Faults(corrupt=5))
    got, _ = await round_trip(proxy, b"0123456789")
    assert got[:5] + got[6:] == b"012346789"
    assert bin(got[5] ^ ord("5")).count("1") == 1


async def test_the_connection_is_cut_after_so_many_bytes(proxy):
    proxy.set(down=Faults(cut=4))
    reader, writer = await dial(proxy.address)
    writer.write(b"0123456789")
    assert await reader.read() == b"0123"
    writer.close()


async def test_without_an_upstream_a_client_is_refused():
    async with asyncio.timeout(5), FaultProxy("127.0.0.1:1") as proxy:
        reader, _writer = await dial(proxy.address)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)


async def test_unix_sockets_on_both_sides(tmp_path):
    server = await serve(f"unix:{tmp_path}/s", echo)
    async with asyncio.timeout(5), server, FaultProxy(f"unix:{tmp_path}/s", listen=f"unix:{tmp_path}/p") as proxy:
        proxy.set(down=Faults(latency=0.05))
        got, seconds = await round_trip(proxy)
        assert got == b"ping"
        assert seconds >= 0.049


async def ask(address: str, request: bytes) -> tuple[bytes, dict]:
    reader, writer = await dial(address)
    writer.write(request)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return head.split(b"\r\n")[0], json.loads(body)


def put(body: bytes) -> bytes:
    return b"PUT /faults HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


async def test_faults_that_do_not_fit_change_nothing(proxy):
    server = await serve("127.0.0.1:0", Control(proxy))
    async with server:
        control = "{}:{}".format(*server.sockets[0].getsockname()[:2])
        await ask(control, put(b'{"down": {"latency": 0.2}}'))
        for wrong in (b'{"down": {"latency": -1}}', b'{"sideways": {}}', b'{"up": {"cut": "x"}}', b"{", b"[]"):
            status, answer = await ask(control, put(wrong))
            assert status == b"HTTP/1.1 400 Bad Request", wrong
            assert answer["error"]
        assert (await ask(control, b"POST /elsewhere HTTP/1.1\r\n\r\n"))[0] == b"HTTP/1.1 404 Not Found"
        assert proxy.faults["down"] == Faults(latency=0.2)


async def test_the_program_is_told_by_json_over_http(upstream):
    process = await asyncio.create_subprocess_exec(sys.executable, PROGRAM, upstream, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            where = json.loads(await process.stdout.readline())
            _, told = await ask(where["control"], put(b'{"down": {"cut": 2}}'))
            assert told["faults"] == {"up": {}, "down": {"cut": 2}}
            reader, writer = await dial(where["listen"])
            writer.write(b"0123")
            assert await reader.read() == b"01"
            writer.close()
            status, told = await ask(where["control"], b"DELETE /faults HTTP/1.1\r\n\r\n")
            assert (status, told["faults"]) == (b"HTTP/1.1 200 OK", {"up": {}, "down": {}})
            assert told["accepted"] == 1
    finally:
        process.terminate()
        await process.wait()
