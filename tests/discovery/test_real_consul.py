"""Servers found by a real Consul agent, where one is installed: the double must not be kinder than the original."""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mcpbridge.discovery import Source
from mcpbridge.discovery.consul import Consul
from tests.discovery.test_consul import until, urls
from tests.support.peers import free_port

CONSUL = shutil.which("consul")
TOKEN = str(uuid.uuid4())
pytestmark = pytest.mark.skipif(CONSUL is None, reason="needs consul (Debian: apt-get install consul)")


class Agent:
    """A dev agent, whose state is gone when it ends. Nothing is allowed without TOKEN."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, folder: Path) -> AsyncIterator[None]:
        assert CONSUL is not None
        acl = f'acl {{ enabled = true default_policy = "deny" tokens {{ master = "{TOKEN}" agent = "{TOKEN}" }} }}'
        ports = [f"-{name}-port={free_port()}" for name in ("serf-lan", "serf-wan", "server")]
        with (folder / "consul.log").open("w") as log:
            process = await asyncio.create_subprocess_exec(
                CONSUL, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={self.port}", "-dns-port=-1",
                "-grpc-port=-1", *ports, "-hcl", acl, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            async with asyncio.timeout(30):
                while not await self._leads():
                    await asyncio.sleep(0.1)
            yield
        finally:
            process.kill()
            await process.wait()

    async def _leads(self) -> bool:
        try:
            await self.put("/v1/agent/service/register", {"Name": "ready"})
        except (aiohttp.ClientError, AssertionError):
            return False
        return True

    async def put(self, path: str, body: Any = None) -> None:
        headers = {"X-Consul-Token": TOKEN}
        async with aiohttp.ClientSession() as client, client.put(self.url + path, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def register(self, id: str, port: int, **meta: str) -> None:
        """A passing instance of weather."""
        check = {"CheckID": id, "TTL": "10m", "Status": "passing"}
        place = {"Address": "127.0.0.1", "Port": port, "Tags": ["mcp"], "Meta": meta, "Check": check}
        await self.put("/v1/agent/service/register", {"ID": id, "Name": "weather", **place})


@asynccontextmanager
async def watching(agent: Agent, token: str = TOKEN) -> AsyncIterator[Source]:
    source = Source("consul", lambda: None)
    task = asyncio.create_task(Consul(agent.url, token=token, wait=2).watch(source))
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_real_agent_is_followed_through_checks_acl_and_the_loss_of_its_state(tmp_path: Path) -> None:
    agent = Agent()
    one, two, three = (f"http://127.0.0.1:{port}/mcp" for port in (1, 2, 3))
    async with watching(agent) as source:
        async with agent.running(tmp_path):
            await agent.register("w1", 1)
            await agent.register("w2", 2, **{"mcp-protocol": "websocket", "mcp-path": "/w", "mcp-weight": "2"})
            await until(lambda: urls(source) == [one, "ws://127.0.0.1:2/w"])
            assert [endpoint.weight for endpoint in source.servers[0].endpoints] == [1.0, 2.0]
            await agent.put("/v1/agent/check/fail/w2")
            await until(lambda: urls(source) == [one])
            await agent.put("/v1/agent/check/pass/w2")
            await agent.register("w2", 2)
            await until(lambda: urls(source) == [one, two])
            async with watching(agent, token=str(uuid.uuid4())) as stranger:
                await until(lambda: stranger.told().state == "down")
                assert "answered 403" in (stranger.told().last_error or "")
        await until(lambda: source.told().state == "degraded")
        assert urls(source) == [one, two], "what was found last stays"
        async with agent.running(tmp_path):  # another index, and nothing is known
            await until(lambda: source.told().state == "ok")
            assert urls(source) == [one, two], "so much emptiness is not believed at once"
            await agent.register("w3", 3)
            await until(lambda: urls(source) == [three])
