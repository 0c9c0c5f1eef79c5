"""Rows of the table of failures (reliability section 3) that concern backends and clients, each through a real gateway."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import statistics
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.chaos.history import Call
from tests.chaos.world import SLACK, Client, World, world
from tests.support import raw
from tests.support.counts import count, tier
from tests.support.fault_proxy import Faults

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]
OVERS = ("http", "websocket", "tcp_binary", "sse", "stdio")
DEADLINE = 2.0  # seconds of a call
LONG = pytest.mark.skipif(tier() != "t2", reason="scripts/chaos.sh runs it")
PATIENT = {"circuit_breaker": {"failure_threshold": 1_000_000}}


def era_of(over: str) -> str:
    return "legacy" if over == "sse" else "modern"


@asynccontextmanager
async def clients(place: World, servers: Iterable[str], each: int = 1, era: str = "modern") -> AsyncIterator[list[Client]]:
    """So many clients of each server, that have called once."""
    found = [place.client(server, era, f"{server}-c{number}") for server in servers for number in range(each)]
    try:
        for client in found:
            await client.open()
            assert (await client.call()).succeeded, place.history.failures()
        yield found
    finally:
        for client in found:
            await client.close()


async def steady(client: Client, seconds: float) -> list[Call]:
    """Calls one after the other for so long."""
    until = time.monotonic() + seconds
    calls = []
    while time.monotonic() < until:
        calls.append(await client.call())
    return calls


def median(calls: list[Call]) -> float:
    return statistics.median(call.took for call in calls)


def check(place: World, deadline: float = DEADLINE) -> None:
    assert not (wrong := place.history.wrong(place.runs(), deadline + SLACK)), "\n".join(wrong[:20])


async def test_row_7_a_backend_that_hangs_costs_its_own_calls_their_deadline_and_others_nothing() -> None:
    """Then its breaker answers for it; when it goes on, so does everything."""
    servers = {over: [f"{over}/{era_of(over)}"] for over in OVERS} | {"good": ["http/modern"]}
    async with world(servers, routing={"request_timeout": f"{DEADLINE}s"}, circuit_breaker={"timeout_seconds": 1}) as place:
        victims = [place.servers[over][0] for over in OVERS]
        async with clients(place, OVERS, each=5) as callers, clients(place, ["good"]) as [other]:
            before = await steady(other, 1.0)
            for victim in victims:
                victim.proxy.set(down=Faults(black_hole=True))
                victim.send(signal.SIGSTOP) if victim.over == "stdio" else None
            meanwhile = asyncio.create_task(steady(other, DEADLINE))
            hung = await asyncio.gather(*(client.call() for client in callers))
            assert all(call.error is not None and call.error["code"] == 1008 for call in hung), [c.error for c in hung]
            refused = await asyncio.gather(*(client.call() for client in callers))
            assert all(call.error is not None and call.error["code"] == 1011 and call.took < 1.0 for call in refused)
            during = await meanwhile
            assert all(call.succeeded for call in during)
            assert median(during) <= 2 * median(before) + 0.02
            for victim in victims:
                victim.proxy.set()
                victim.send(signal.SIGCONT)
            for over in OVERS:
                assert await goes_on(next(client for client in callers if client.url.endswith(f"/{over}")), 15), over
        check(place)


async def goes_on(client: Client, seconds: float) -> bool:
    """Whether a call succeeds within so many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if (await client.call()).succeeded:
            return True
        await asyncio.sleep(0.1)
    return False


async def test_row_8_a_hundred_calls_in_flight_on_backends_that_are_killed_get_a_hundred_answers_and_none_runs_twice() -> None:
    servers = {over: [f"{over}/{era_of(over)}"] * 2 for over in OVERS}
    async with world(servers, routing={"request_timeout": "5s"}, **PATIENT) as place:
        async with clients(place, OVERS, each=20) as callers:
            calls = [asyncio.create_task(client.call("tools/call", name="never")) for client in callers]
            async with asyncio.timeout(10):
                while sum("-2" in token for token in place.runs()) < len(calls):
                    await asyncio.sleep(0.05)
            for replicas in place.servers.values():
                await asyncio.to_thread(replicas[0].kill)
            ended = await asyncio.gather(*calls)
            codes = {call.error["code"] for call in ended if call.error is not None}
            assert codes <= {1006, 1008, 1018} and codes & {1006, 1018}, codes
            assert all(call.error is not None and call.error["data"]["retryable"] for call in ended)
            assert len(ended) == 100
        check(place, 5.0)


@LONG
async def test_row_9_an_answer_at_ten_bytes_a_second_ends_with_the_deadline() -> None:
    overs = [over for over in OVERS if over != "stdio"]
    async with world({over: [f"{over}/{era_of(over)}"] for over in overs}, routing={"request_timeout": "1s"}) as place:
        async with clients(place, overs) as callers:
            for over in overs:
                place.servers[over][0].proxy.set(down=Faults(bandwidth=10, slice=1))
            calls = await asyncio.gather(*(client.call() for client in callers))
            assert [call.error is not None and call.error["code"] for call in calls] == [1008] * len(overs)
        check(place, 1.0)


async def test_row_12_a_child_that_is_killed_is_started_again_at_once() -> None:
    async with world({"s": ["stdio/modern"]}, routing={"request_timeout": "10s"}) as place, clients(place, ["s"]) as [client]:
        [child] = place.servers["s"]
        before = child.pids()
        waiting = asyncio.create_task(client.call("tools/call", name="never"))
        async with asyncio.timeout(5):
            while len(child.runs()) < 2:
                await asyncio.sleep(0.02)
        child.kill()
        assert (await waiting).error["code"] == 1018  # type: ignore[index]
        began = time.monotonic()
        assert (await client.call()).succeeded
        assert time.monotonic() - began < 0.5 + SLACK
        assert child.pids() != before
        check(place, 10.0)


async def test_row_14_a_server_that_floods_stderr_and_talks_beside_the_protocol_holds_nobody_up() -> None:
    def flooding(command: list[str]) -> list[str]:
        return ["sh", "-c", f"yes a line that nobody wants >&2 & echo not the protocol; exec {shlex.join(command)}"]

    servers = {"loud": ["stdio/modern"], "good": ["stdio/modern"]}
    async with world(servers, wrappers={"loud": flooding}, routing={"request_timeout": "10s"}) as place:
        async with clients(place, ["good"]) as [good]:
            quiet = await steady(good, 1.5)
            async with clients(place, ["loud"]) as [loud]:
                before = await place.level()
                both = await asyncio.gather(steady(good, 3.0), steady(loud, 3.0))
                assert all(call.succeeded for calls in both for call in calls)
                assert (await place.level()).rss < before.rss + (24 << 20)
                assert median(both[0]) <= 3 * median(quiet) + 0.02
        check(place, 10.0)


async def test_row_15_a_child_that_stops_reading_costs_its_own_calls_only() -> None:
    servers = {"deaf": ["stdio/modern"], "good": ["stdio/modern"]}
    async with world(servers, routing={"request_timeout": f"{DEADLINE}s"}, **PATIENT) as place:
        async with clients(place, ["deaf"], each=12) as callers, clients(place, ["good"]) as [good]:
            before = await place.level()
            place.servers["deaf"][0].send(signal.SIGSTOP)
            other = asyncio.create_task(steady(good, DEADLINE))
            calls = await asyncio.gather(*(client.call("tools/call", padding=900_000) for client in callers))
            assert all(call.error is not None for call in calls)
            assert all(call.succeeded for call in await other)
            assert (await place.level()).rss < before.rss + (128 << 20)
            place.servers["deaf"][0].send(signal.SIGCONT)
            assert await goes_on(callers[0], 15)
        check(place)


async def test_row_16_clients_that_hang_up_in_their_calls_leave_nothing_behind() -> None:
    """By a reset and by a half-close, in turns; over HTTP in the modern era, where that cancels."""

    async def hang_up(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        params = {"name": "never", "arguments": {"token": f"gone-{number}"}, "_meta": raw.modern_meta()}
        body = raw.json.dumps(raw.request(1, "tools/call", **params)).encode()
        fields = {
            "host": f"127.0.0.1:{port}",
            "content-type": "application/json",
            "accept": raw.ACCEPT,
            "mcp-protocol-version": raw.MODERN,
            "mcp-method": "tools/call",
            "mcp-name": "never",
            "content-length": str(len(body)),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST /mcp/s HTTP/1.1\r\n{head}\r\n".encode() + body)
        await writer.drain()
        await asyncio.sleep(0.05)
        if number % 2:
            writer.write_eof()
            async with asyncio.timeout(5):
                await reader.read()
        writer.transport.abort()

    async with world({"s": ["http/modern", "stdio/modern"]}, routing={"request_timeout": "60s"}, **PATIENT) as place:
        async with clients(place, ["s"]) as [client]:
            for _ in range(8):
                await client.call()
            port = int(place.base.rpartition(":")[2])
            before = await place.level()
            for first in range(0, count("hang_ups"), 50):
                await asyncio.gather(*(hang_up(number) for number in range(first, first + 50)))
            assert not (left := await place.settles(before, fds=2, tasks=2)), left
            assert (await client.call()).succeeded


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the time of a process from /proc")
async def test_row_29_a_gateway_without_descriptors_does_not_spin_and_serves_again_when_there_are_some() -> None:
    async with world({"s": ["http/modern"]}, files=96) as place, clients(place, ["s"]) as [client]:
        port = int(place.base.rpartition(":")[2])
        streams = []
        for _ in range(200):
            try:
                async with asyncio.timeout(0.5):
                    streams.append(await asyncio.open_connection("127.0.0.1", port))
            except (OSError, TimeoutError):
                break
        used = cpu(place.process.pid)
        await asyncio.sleep(2.0)
        assert cpu(place.process.pid) - used < 0.2 * 2.0
        assert place.process.poll() is None
        for _reader, writer in streams:
            writer.transport.abort()
        assert await goes_on(client, 1.0 + SLACK)


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@LONG
async def test_row_32_when_every_backend_fails_the_load_on_them_rises_by_a_fifth_and_ten_a_second_at_most() -> None:
    async with world({"s": ["http/modern"] * 3}, **PATIENT) as place, clients(place, ["s"], each=10) as callers:
        for replica in place.servers["s"]:
            replica.garble(True, "wrong version")
        done = len(place.runs())
        began = time.monotonic()
        calls = [call for some in await asyncio.gather(*(steady(client, 4.0) for client in callers)) for call in some]
        took = time.monotonic() - began
        executed = len(place.runs()) - done
        assert executed <= 1.2 * len(calls) + 10 * (took + 10), (executed, len(calls), took)  # ten seconds are saved up
        check(place)


@LONG
async def test_row_33_with_five_of_six_backends_gone_calls_find_the_sixth() -> None:
    async with world({"s": ["http/modern"] * 6}) as place, clients(place, ["s"], each=4) as callers:
        for replica in place.servers["s"][:5]:
            await asyncio.to_thread(replica.kill)
        calls = [call for some in await asyncio.gather(*(steady(client, 3.0) for client in callers)) for call in some]
        assert sum(call.succeeded for call in calls) >= 0.95 * len(calls), place.history.failures()[:20]
        check(place)


@LONG
async def test_row_36_a_websocket_that_went_dead_in_silence_is_noticed_within_three_quarters_of_a_minute() -> None:
    async with (
        world({"s": ["websocket/modern"]}, routing={"request_timeout": "5s"}) as place,
        clients(place, ["s"]) as [client],
    ):
        [replica] = place.servers["s"]
        before = await place.level()
        replica.proxy.set(up=Faults(black_hole=True), down=Faults(black_hole=True))
        async with asyncio.timeout(45 + SLACK):
            while (await place.level()).fds >= before.fds:
                await asyncio.sleep(0.5)
        replica.proxy.set()
        assert await goes_on(client, 10)
