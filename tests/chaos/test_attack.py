"""An attack of many connections of every bad kind at once: who was there before is served, and what it cost is given back.

Source: issue 5, "Invariants" (back to baseline within 60 s); reliability section 3, rows 16 and 17.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.chaos.world import SLACK, Client, World, world
from tests.support import raw
from tests.support.counts import count
from tests.support.frames import upgrade_request
from tests.support.results import Results

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]
DEADLINE = 10.0  # seconds of a call
HOLD = 3.0  # seconds that all of them are there together
AT_ONCE = 200  # that connect together
PACE = 0.05  # seconds between two calls of the client that was there before
HOST = "127.0.0.1"
CALL = raw.json.dumps(
    raw.request(1, "tools/call", name="never", arguments={"token": "attack"}, _meta=raw.modern_meta())
).encode()


def post(body: bytes, length: int) -> bytes:
    fields = f"host: {HOST}\r\ncontent-type: application/json\r\naccept: {raw.ACCEPT}\r\nmcp-protocol-version: {raw.MODERN}\r\n"
    named = "mcp-method: tools/call\r\nmcp-name: never\r\n"
    return f"POST /mcp/s HTTP/1.1\r\n{fields}{named}content-length: {length}\r\n\r\n".encode() + body


#: what an attacker says first; nobody says more, but for the one that says it byte by byte
KINDS: dict[str, bytes] = {
    "silent": b"",
    "a head that never ends": b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ",
    "a body that never comes": post(b"{", 1_000_000),
    "garbage": bytes(range(256)) * 4,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "a websocket that says nothing": upgrade_request("/ws/s", HOST, ()),
    "a stream of events": f"GET /events/s HTTP/1.1\r\nhost: {HOST}\r\naccept: text/event-stream\r\n\r\n".encode(),
    "a call without an end": post(CALL, len(CALL)),
    "asks much and reads nothing": f"GET /api/v1/status HTTP/1.1\r\nhost: {HOST}\r\n\r\n".encode() * 60,
}


class Attacker:
    """One connection; ``leave`` ends it by a reset or in order."""

    def __init__(self, number: int, port: int) -> None:
        self.number, self.port = number, port
        self.kind, self.says = list(KINDS.items())[number % len(KINDS)]
        self.writer: asyncio.StreamWriter | None = None

    async def come(self) -> None:
        try:
            async with asyncio.timeout(10):
                _, self.writer = await asyncio.open_connection(HOST, self.port, limit=1024)
        except (OSError, TimeoutError):
            return  # it was not let in
        self.writer.write(self.says)

    def drip(self) -> None:
        if self.writer is not None and self.kind == "a head that never ends":
            self.writer.write(b"a")

    def leave(self) -> None:
        if self.writer is None:
            return
        if self.number % 2:
            self.writer.transport.abort()
        else:
            self.writer.close()


async def steady(client: Client, stop: asyncio.Event) -> None:
    while not stop.is_set():
        await client.call(timeout=30)
        await asyncio.sleep(PACE)


async def attack(place: World) -> tuple[int, int]:
    """All of it; how many were connected together, and the most descriptors the gateway had."""
    port = int(place.base.rpartition(":")[2])
    attackers = [Attacker(number, port) for number in range(count("attackers"))]
    try:
        for first in range(0, len(attackers), AT_ONCE):
            await asyncio.gather(*(one.come() for one in attackers[first : first + AT_ONCE]))
        until = time.monotonic() + HOLD
        while time.monotonic() < until:
            for one in attackers:
                one.drip()
            await asyncio.sleep(0.5)
        return sum(one.writer is not None for one in attackers), (await place.level()).fds
    finally:
        for one in attackers:
            one.leave()


async def test_after_an_attack_of_many_connections_everything_is_as_it_was_before(results: Results) -> None:
    async with world({"s": ("http/modern", "http/modern")}, routing={"request_timeout": f"{DEADLINE:g}s"}) as place:
        clients = [place.client("s", "modern", f"c{number}") for number in range(4)]
        stop = asyncio.Event()
        try:
            for client in clients:
                for _ in range(10):
                    assert (await client.call()).succeeded, place.history.failures()
            before = await place.level()
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(steady(client, stop))
                try:
                    connected, fds = await attack(place)
                finally:
                    stop.set()
            began = time.monotonic()
            left = await place.settles(before, fds=8, tasks=8)
            after, took = await place.level(), time.monotonic() - began
            good, of = place.history.success()
            results["attack"] = {
                "connections": connected,
                "fds": {"before": before.fds, "during": fds, "after": after.fds},
                "tasks": {"before": before.tasks, "after": after.tasks},
                "MiB": {"before": before.rss >> 20, "after": after.rss >> 20},
                "seconds until as before": round(took, 1),
                "calls meanwhile": {"succeeded": good, "of": of},
            }
            assert not left, left
            assert connected == count("attackers") and fds > connected / 4
            assert not (wrong := place.history.wrong(place.runs(), DEADLINE + SLACK)), "\n".join(wrong[:20])
            assert place.runs().count("attack") > 0
            assert good >= 0.99 * of, "\n".join(place.history.failures()[:20])
            assert (await clients[0].call()).succeeded
        finally:
            for client in clients:
                await client.close()
