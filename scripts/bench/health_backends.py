"""The backends of the health benchmark: real MCP servers behind fault proxies, that get worse as their episodes say.

    health_backends.py WINDOW SEED HEALTHY EACH CRASHES WINDOWS

Prints one line of JSON, ``{name: port of its proxy}``; begins at the time (monotonic, seconds) that comes as a line on stdin;
runs until it is ended. Each endpoint is a listener of its own with a fault proxy in front; they share this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path
from random import Random
from time import monotonic

import uvloop
from echo_http import EchoConnection
from health_script import Condition, Episode, cast

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.fault_proxy import FaultProxy, Faults


class Endpoint:
    """One backend and its proxy."""

    def __init__(self, episode: Episode) -> None:
        self.episode = episode
        self.now = episode.conditions[0]
        self.chance = Random(f"calls:{episode.name}")
        self.free_at = 0.0  # when the one worker has done what waits

    def delay(self) -> float:
        """Seconds until the answer of a call that comes now."""
        works = self.now.service
        if not self.episode.is_serial:
            return works
        now = monotonic()
        self.free_at = max(now, self.free_at) + works
        return self.free_at - now

    @contextlib.asynccontextmanager
    async def running(self):
        """Its proxy, while both listen."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: AilingConnection(self), "127.0.0.1", 0)
        async with FaultProxy("127.0.0.1:{}".format(*server.sockets[0].getsockname()[1:])) as self.proxy:
            yield self.proxy
        server.close()

    async def play(self, begin: float, window: float) -> None:
        """The windows of its episode, one after the other."""
        for number, condition in enumerate(self.episode.conditions):
            await asyncio.sleep(begin + number * window - monotonic())
            if number == self.episode.failure:
                self.proxy.set(down=Faults(reset=True))
                return
            self.turn(condition)

    def turn(self, condition: Condition) -> None:
        """From now on it is so."""
        before, self.now = self.now, condition
        if condition.restarts:
            self.proxy.set(down=Faults(reset=True))
        if condition.restarts or (condition.added, condition.resets) != (before.added, before.resets):
            added = condition.added
            self.proxy.set(down=Faults(latency=added, jitter=added / 4, reset_chance=condition.resets))


class AilingConnection(EchoConnection):
    """Answers late, or with HTTP 500, as its endpoint is at the moment."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def reply(self, status: bytes, body: bytes, extra: bytes) -> None:
        if self.endpoint.chance.random() < self.endpoint.now.errors:
            status, body = b"500 Internal Server Error", b""
        asyncio.get_running_loop().call_later(self.endpoint.delay(), self.send, status, body, extra)

    def send(self, *answer: bytes) -> None:
        """The time has come; whoever asked may have gone."""
        if not self.transport.is_closing():
            super().reply(*answer)


async def main(window: float, *numbers: int) -> None:
    """Listen, play, wait for the end."""
    first, healthy, each, crashes, windows = numbers
    endpoints = [Endpoint(one) for one in cast(first, healthy, each, crashes, window, windows)]
    async with contextlib.AsyncExitStack() as stack:
        proxies = {one.episode.name: await stack.enter_async_context(one.running()) for one in endpoints}
        print(json.dumps({name: int(proxy.address.rpartition(":")[2]) for name, proxy in proxies.items()}), flush=True)
        begin = float(await asyncio.to_thread(sys.stdin.readline) or 0)
        async with asyncio.TaskGroup() as tasks:
            for one in endpoints:
                tasks.create_task(one.play(begin, window))
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(float(sys.argv[1]), *map(int, sys.argv[2:])))
