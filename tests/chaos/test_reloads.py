"""Reloads under load, by SIGHUP, by a changed file and by the API, good ones and broken ones: no call fails, and what stays is
not touched.

Source: issue 5, "Acceptance"; reliability section 3, rows 20 and 21.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.history import RETRY_SAFE
from tests.chaos.world import SLACK, Client, Replica, World, world
from tests.support.counts import count
from tests.support.results import Results

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
DEADLINE = 10.0  # seconds of a call
PACE = 0.04  # seconds between two calls of one caller
WAIT = 20.0  # seconds for a reload to count
FDS = TASKS = 80  # what conversations with the replicas keep open at most
TOKENS = [
    {"name": name, "token": f"{name}-0123456789abcdef0123456789abcdef", "scopes": ["mcp:admin", "mcp:read", "mcp:write"]}
    for name in ("first", "other")
]
AUTHORIZATION = {"authorization": f"Bearer {TOKENS[0]['token']}"}
STAYS = {
    "modern": ("http/modern", "websocket/modern", "tcp_binary/modern", "stdio/modern"),
    "legacy": ("http/legacy", "websocket/legacy", "stdio/legacy"),
}
MOVES = {
    "moved": ("http/modern",) * 3,
    "wandered": ("http/legacy", "websocket/legacy", "http/legacy"),
    "turned": ("http/modern", "http/legacy", "websocket/legacy"),
}
GUEST = {"guest": ("http/modern",)}
WAYS = ("SIGHUP", "a file has changed", "asked for by first")
BROKEN = ("{", '{"servers": [{"nmae": "x"}]}', '{"auth": {"type": "none"}, "server": {"tls": {"cert_file": "/nowhere"}}}')


class Reloading:
    """One running gateway, and what is written into its file."""

    def __init__(self, place: World) -> None:
        assert place.file is not None
        self.place, self.file = place, place.file
        self.base: dict[str, Any] = json.loads(self.file.read_text())
        servers = self.base["discovery"]["providers"]["static"]["servers"]
        self.entries = {entry["name"]: entry for entry in servers}

    def document(self, number: int) -> dict[str, Any]:
        """The configuration number so: a guest that comes and goes, servers that move, keys, a token more or less."""
        at = number % 3
        entries = [self.entries[name] for name in STAYS]
        for name in MOVES:
            ends = self.entries[name]["endpoints"]
            entries.append({"name": name, "endpoints": [ends[at], ends[(at + 1) % 3]][: 1 + number % 2]})
        if number % 2:
            entries.append(self.entries["guest"])
        return {
            **self.base,
            "auth": {"static_tokens": TOKENS[: 1 + number % 2]},
            "discovery": {"providers": {"static": {"servers": entries}}},
            "load_balancing": {"strategy": ("cross_protocol", "round_robin", "least_conn")[at]},
            "logging": {"level": ("info", "debug")[number % 2]},
        }

    def write(self, text: str) -> None:
        fresh = self.file.with_name("fresh")
        fresh.write_text(text)
        fresh.rename(self.file)

    def reloads(self, why: str, event: str = "configuration reloaded") -> int:
        """How often it has reloaded for this reason, as its log says."""
        errors = Path(self.place.process.errors)  # type: ignore[attr-defined]
        return sum(f'"{event}' in line and f'"reason": "{why}"' in line for line in errors.read_text().splitlines())

    async def status(self) -> Any:
        async with aiohttp.ClientSession(headers=AUTHORIZATION) as client:
            async with client.get(f"{self.place.base}/api/v1/status") as answer:
                return await answer.json()

    async def ask(self) -> Any:
        async with aiohttp.ClientSession(headers=AUTHORIZATION) as client:
            async with client.post(f"{self.place.base}/api/v1/reload", json={}) as answer:
                assert answer.status == 200
                return await answer.json()

    async def reload(self, number: int) -> None:
        """Make configuration number so count, in the way that is next."""
        why, names = WAYS[number % 3], {*STAYS, *MOVES, *(["guest"] if number % 2 else [])}
        done = self.reloads(why)
        self.write(json.dumps(self.document(number)))
        if why == "SIGHUP":
            self.place.process.send_signal(signal.SIGHUP)
        elif why.startswith("asked"):
            assert (await self.ask())["reloaded"] is True
        async with asyncio.timeout(WAIT):
            while self.reloads(why) == done or {one["server"] for one in (await self.status())["backends"]} - names:
                await asyncio.sleep(0.05)

    async def fail(self, number: int) -> None:
        """Try a broken one: it says so, and the one before stays."""
        good = self.file.read_text()
        self.write(BROKEN[number % len(BROKEN)])
        answer = await self.ask()
        assert answer["reloaded"] is False, answer
        assert str(self.file) in {error["file"] for error in answer["errors"]}, answer
        assert (await self.status())["config"]["last_reload_ok"] is False
        self.write(good)
        assert (await self.ask())["reloaded"] is True


def listening(pid: int) -> set[str]:
    """The listening sockets of a process, by inode."""
    table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    listens = {row[9] for row in table if row[3] == "0A"}
    mine = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(str(fd.readlink()).removeprefix("socket:[").rstrip("]"))
        except FileNotFoundError:
            continue  # it was closed meanwhile
    return listens & mine


@asynccontextmanager
async def load(place: World) -> AsyncIterator[list[Client]]:
    """Callers of every server that stays or moves, in both eras; a third of their calls may not run twice."""
    is_over = False

    async def caller(client: Client) -> None:
        while not is_over:
            await client.call("tools/call" if client.last % 3 == 0 else RETRY_SAFE)
            await asyncio.sleep(PACE)

    kinds = [(server, era) for server in (*STAYS, *MOVES) for era in ("modern", "legacy")] * 2
    clients = [place.client(server, era, f"c{number}") for number, (server, era) in enumerate(kinds)]
    try:
        for client in clients:
            client.http.fields = AUTHORIZATION
            await client.open()
            assert (await client.call()).succeeded, place.history.failures()
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(caller(client))
            try:
                yield clients
            finally:
                is_over = True
    finally:
        for client in clients:
            await client.close()


def lasting(place: World) -> list[Replica]:
    return [replica for name in STAYS for replica in place.servers[name]]


async def test_no_call_fails_while_the_configuration_is_reloaded_and_what_stays_is_not_touched(results: Results) -> None:
    started = {"static_tokens": TOKENS[:1]}
    async with world({**STAYS, **MOVES, **GUEST}, auth=started, routing={"request_timeout": f"{DEADLINE:g}s"}) as place:
        reloading = Reloading(place)
        guest = place.client("guest", "modern", "guest")
        guest.http.fields = AUTHORIZATION
        async with AsyncExitStack() as stack, load(place) as clients:
            stack.push_async_callback(guest.close)
            await asyncio.sleep(1.0)  # of load: every replica has its conversations
            before = await place.level()
            streams = [client.http.streams for client in clients]
            sockets, pids = listening(place.process.pid), [replica.pids() for replica in lasting(place)]
            kept = [replica for replica in lasting(place) if replica.over in ("websocket", "tcp_binary")]
            accepted = [replica.proxy.accepted for replica in kept]
            began = time.monotonic()
            for number in range(1, count("reloads") + 1):
                await reloading.reload(number)
                if number % 2:
                    assert (await guest.call()).succeeded, place.history.failures()
                if number % 5 == 0:
                    await reloading.fail(number // 5)
            took = time.monotonic() - began
            assert [client.http.streams for client in clients] == streams, "a connection was closed"
            assert (listening(place.process.pid), [replica.pids() for replica in lasting(place)]) == (sockets, pids)
            assert [replica.proxy.accepted for replica in kept] == accepted
        failed = [*place.history.failures(), *place.history.failures("tools/call")]
        results["reloads"] = {
            "reloads": count("reloads"),
            "broken": count("reloads") // 5,
            "seconds": round(took, 1),
            "calls": len(place.history.calls),
            "failed": len(failed),
        }
        assert not failed, "\n".join(failed[:20])
        assert not (wrong := place.history.wrong(place.runs(), DEADLINE + SLACK)), "\n".join(wrong[:20])
        assert not (left := await place.settles(before, fds=FDS, tasks=TASKS)), left
