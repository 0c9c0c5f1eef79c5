"""Both event loops, a guard that ends with its test, and eyes for survivors."""

from __future__ import annotations

import asyncio
import os
import secrets
import time

import pytest
import uvloop

from mcpbridge.transports.stdio import guard
from mcpbridge.transports.stdio.child import spawn
from mcpbridge.transports.stdio.guard_process import processes

BOUND = 5.0


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def _short_graces(monkeypatch):
    monkeypatch.setattr("mcpbridge.transports.stdio.child.CLOSE_GRACE", 0.3)


@pytest.fixture
async def bridge():
    """A bridge that starts children; at its end it closes them and its guard."""
    harness = Harness()
    yield harness
    for child in harness.children:
        await child.close()
    await guard.close()


class Harness:
    """Starts children that carry a tag of this test in their environment, so that every process of theirs can be counted."""

    def __init__(self) -> None:
        self.tag = "T" + secrets.token_hex(8)
        self.children = []
        self.stderr: list[str] = []

    async def spawn(self, *argv, env=None, cwd=None, max_message=1 << 24):
        env = {"TEST_TAG": self.tag, **(env or {})}
        child = await spawn(argv, env=env, cwd=cwd, name="weather", max_message=max_message, on_stderr=self.stderr.append)
        self.children.append(child)
        return child

    async def talk(self, *argv, **options):
        child = await self.spawn(*argv, **options)
        return Talk(child)

    def env(self) -> dict[str, str]:
        return {**os.environ, "TEST_TAG": self.tag}

    def alive(self) -> list[str]:
        return [f"{p.pid} {p.state}" for p in processes() if p.state != "Z" and has_tag(p.pid, self.tag)]

    async def until_alive(self, count: int) -> None:
        await until(lambda: len(self.alive()) == count, lambda: f"{count} processes expected, there are {self.alive()}")


class Talk:
    """A started child with its messages in a queue."""

    def __init__(self, child) -> None:
        self.child = child
        self.messages: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed: asyncio.Future = asyncio.get_running_loop().create_future()
        child.start(self.messages.put_nowait, self.closed.set_result)

    async def ask(self, data: bytes) -> bytes:
        self.child.send(data)
        return await self.next()

    async def next(self) -> bytes:
        async with asyncio.timeout(BOUND):
            return await self.messages.get()

    async def end(self):
        async with asyncio.timeout(BOUND):
            return await asyncio.shield(self.closed)


async def until(condition, explain=lambda: "condition did not come true", bound=BOUND):
    ends = time.monotonic() + bound
    while not condition():
        assert time.monotonic() < ends, explain()
        await asyncio.sleep(0.02)


def has_tag(pid: int, tag: str) -> bool:
    """In the environment, or among the arguments of one that emptied it."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ, open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return f"TEST_TAG={tag}".encode() in environ.read().split(b"\0") or tag.encode() in cmdline.read().split(b"\0")
    except OSError:
        return False


def zombies() -> list[int]:
    """Dead processes that nobody reaped, among our children and the guard's."""
    everybody = processes()
    parents = {os.getpid()} | {p.pid for p in everybody if p.parent == os.getpid()}
    return [p.pid for p in everybody if p.state == "Z" and p.parent in parents]
