"""Kill, hang, slow, flap and garble backends under load through a real gateway; the history of all calls is checked.

Source: issue 5, "Acceptance": success of retry-safe calls at least 99.9 %, wrong answers 0, duplicates 0.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable

import pytest

from tests.chaos.world import SLACK, Client, Replica, World, world
from tests.support.counts import count
from tests.support.fault_proxy import Faults
from tests.support.results import Results

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
DEADLINE = 10.0  # seconds of a call
CALLERS = 12
PACE = 0.08  # seconds between two calls of one caller
LASTS = 1.5  # seconds of one fault
FDS = TASKS = 80  # what conversations with eight replicas keep open at most
PAUSE = 1.0  # seconds between two
SERVERS = {
    "modern": ("http/modern", "websocket/modern", "tcp_binary/modern", "stdio/modern"),
    "legacy": ("http/legacy", "websocket/legacy", "sse/legacy", "stdio/legacy"),
}


async def kill(replica: Replica) -> None:
    """It dies; a listener is started again after a while, a child by the gateway."""
    await asyncio.to_thread(replica.kill)
    await asyncio.sleep(LASTS)
    await asyncio.to_thread(replica.start)


async def hang(replica: Replica) -> None:
    """It says nothing any more and takes no notice."""
    replica.send(signal.SIGSTOP)
    await asyncio.sleep(LASTS)
    replica.send(signal.SIGCONT)


async def slow(replica: Replica) -> None:
    """Every byte comes late; a child is stopped for most of the time."""
    if replica.over != "stdio":
        replica.proxy.set(down=Faults(latency=0.4, jitter=0.2))
        await asyncio.sleep(LASTS)
        replica.proxy.set()
        return
    for _ in range(int(LASTS / 0.3)):
        replica.send(signal.SIGSTOP)
        await asyncio.sleep(0.25)
        replica.send(signal.SIGCONT)
        await asyncio.sleep(0.05)


async def flap(replica: Replica) -> None:
    """It is cut off and back, several times a second."""
    for _ in range(int(LASTS / 0.3)):
        if replica.over == "stdio":
            replica.send(signal.SIGKILL)
        else:
            replica.proxy.set(down=Faults(reset=True))
        await asyncio.sleep(0.15)
        replica.proxy.set()
        await asyncio.sleep(0.15)


async def garble(replica: Replica) -> None:
    """Its answers are nonsense."""
    replica.garble(True)
    await asyncio.sleep(LASTS)
    replica.garble(False)


FAULTS: dict[str, Callable[[Replica], Awaitable[None]]] = {
    "kill": kill,
    "hang": hang,
    "slow": slow,
    "flap": flap,
    "garble": garble,
}


async def load(client: Client, stop: asyncio.Event, chance: random.Random) -> None:
    """Calls until told to stop: mostly such that may run twice, some that may not."""
    while not stop.is_set():
        await client.call("tools/call" if chance.random() < 0.2 else "prompts/get")
        await asyncio.sleep(chance.uniform(0.5, 1.5) * PACE)


async def under_load(place: World, rounds: Callable[[], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    kinds = [(server, era) for server in place.servers for era in ("modern", "legacy")]
    clients = [place.client(*kinds[number % len(kinds)], f"c{number}") for number in range(CALLERS)]
    try:
        for client in clients:
            await client.open()
            await client.call()
        tasks = [asyncio.create_task(load(client, stop, random.Random(at))) for at, client in enumerate(clients)]
        try:
            await rounds()
        finally:
            stop.set()
            await asyncio.gather(*tasks)
    finally:
        for client in clients:
            await client.close()


async def test_calls_that_may_run_twice_succeed_while_backends_break_one_after_the_other(results: Results) -> None:
    """Of each server one replica of four at a time; then everything is as it was before."""
    timeline: list[str] = []

    async def rounds() -> None:
        await asyncio.sleep(PAUSE)
        for number in range(count("chaos_rounds")):
            for at, (fault, happens) in enumerate(FAULTS.items()):
                victims = [replicas[(number + at) % len(replicas)] for replicas in place.servers.values()]
                timeline.append(f"{time.monotonic():.2f} {fault} {', '.join(map(str, victims))}")
                await asyncio.gather(*(happens(victim) for victim in victims))
                await asyncio.sleep(PAUSE)

    async with world(SERVERS, routing={"request_timeout": f"{DEADLINE}s"}) as place:
        before = await place.level()
        await under_load(place, rounds)
        good, of = place.history.success()
        tools = place.history.success("tools/call")
        results["under_load"] = {"retry_safe": {"succeeded": good, "of": of}, "tools": {"succeeded": tools[0], "of": tools[1]}}
        wrong = place.history.wrong(place.runs(), DEADLINE + SLACK)
        assert not wrong, "\n".join([*wrong[:20], *timeline])
        assert good >= 0.999 * of, "\n".join([f"{good} of {of}", *place.history.failures()[:20], *timeline])
        assert not (left := await place.settles(before, fds=FDS, tasks=TASKS)), left
