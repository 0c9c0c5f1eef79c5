"""Discovery that flaps, falls silent or finds nothing any more, under load through a real gateway.

Source: reliability section 3, rows 25 and 26: lost 0, one change of the servers in two seconds at most, traffic unaffected.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.chaos.history import RETRY_SAFE
from tests.chaos.world import SLACK, Client, Replica, World, world
from tests.discovery.test_kubernetes import SPACE, piece, service
from tests.support.kubernetes_api import KubernetesApi
from tests.support.results import Results

pytest.importorskip("kubernetes_asyncio")
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]
DEADLINE = 10.0  # seconds of a call
FLAPS = 6.0  # seconds
DEBOUNCE = 2.0  # seconds between two changes of the servers
CALLERS = 8
PACE = 0.04  # seconds between two calls of one caller
SERVERS = {"weather": ("http/modern", "http/modern"), "tides": ("http/legacy", "http/legacy")}
FOUND = {
    "routing": {"request_timeout": f"{DEADLINE:g}s"},
    "discovery": {"refresh_rate": "5s", "providers": {"kubernetes": {"enabled": True}}},
}


def show(api: KubernetesApi, run: World, *numbers: int) -> None:
    """The cluster has these replicas of every server, and no others."""
    for name, replicas in run.servers.items():
        for number, replica in enumerate(replicas):
            one = piece("127.0.0.1", name=name, port=int(replica.proxy.address.rpartition(":")[2]))
            one["metadata"]["name"] = f"{name}-{number}"
            if number in numbers:
                api.put("endpointslices", one)
            elif (SPACE, f"{name}-{number}") in api.objects("endpointslices"):
                api.delete("endpointslices", SPACE, f"{name}-{number}")


async def told(run: World) -> tuple[dict[str, Any], set[str]]:
    """What is said of the cluster, and the addresses of the backends that take calls."""
    async with aiohttp.ClientSession() as client, client.get(f"{run.base}/api/v1/status") as answer:
        status = await answer.json()
    (cluster,) = (one for one in status["discovery"]["providers"] if one["name"] == "kubernetes")
    return cluster, {one["address"] for one in status["backends"] if one["state"] != "draining"}


def addresses(*replicas: Replica) -> set[str]:
    return {f"http://{replica.proxy.address}/mcp" for replica in replicas}


async def follows(run: World, *numbers: int) -> None:
    """Wait until the gateway uses these replicas of every server, and no others."""
    wanted = addresses(*(replicas[number] for replicas in run.servers.values() for number in numbers))
    async with asyncio.timeout(20):
        while (await told(run))[1] != wanted:
            await asyncio.sleep(0.1)


@asynccontextmanager
async def load(run: World) -> AsyncIterator[None]:
    """Callers of both eras; at the end every call must have succeeded."""
    is_over = False

    async def caller(number: int) -> None:
        era, server = ("modern", "weather") if number % 2 else ("legacy", "tides")
        client: Client = run.client(server, era, f"c{number}")
        try:
            await client.open()
            while not is_over:
                await client.call(RETRY_SAFE if number % 4 < 2 else "tools/call")
                await asyncio.sleep(PACE)
        finally:
            await client.close()

    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(caller(number))
        yield
        is_over = True
    assert run.history.wrong(run.runs(), DEADLINE + SLACK) == []
    assert [*run.history.failures(), *run.history.failures("tools/call")] == []
    assert len(run.history.calls) > 50 * CALLERS / 8


@asynccontextmanager
async def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[KubernetesApi, World]]:
    async with KubernetesApi() as api:
        monkeypatch.setenv("KUBECONFIG", api.kubeconfig(folder))
        for name in SERVERS:
            api.put("services", service(name, protocol="http"))
        async with world(dict(SERVERS), **FOUND) as run:
            yield api, run


async def test_an_endpoint_that_flaps_loses_no_call_and_changes_the_servers_every_two_seconds_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, results: Results
) -> None:
    async with cluster(tmp_path, monkeypatch) as (api, run):
        show(api, run, 0)
        await follows(run, 0)
        before = changes(run)
        async with load(run):
            began = time.monotonic()
            while time.monotonic() - began < FLAPS:
                show(api, run, 0, 1)
                await asyncio.sleep(0.05)
                show(api, run, 0)
                await asyncio.sleep(0.05)
            show(api, run, 0, 1)
            await follows(run, 0, 1)
            took = time.monotonic() - began
        count = changes(run) - before
        results["discovery-flap"] = {"seconds": round(took, 1), "changes": count, "calls": len(run.history.calls), "failed": 0}
        assert 1 <= count <= took / DEBOUNCE + 1


def changes(run: World) -> int:
    return Path(run.process.errors).read_text().count('"servers changed"')  # type: ignore[attr-defined]


async def test_without_its_cluster_the_gateway_serves_what_it_knew_and_follows_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path, monkeypatch) as (api, run):
        show(api, run, 0, 1)
        await follows(run, 0, 1)
        async with load(run):
            port = int(api.url.rpartition(":")[2])
            await api.close()
            async with asyncio.timeout(10):
                while (await told(run))[0]["state"] != "degraded":
                    await asyncio.sleep(0.1)
            age = (await told(run))[0]["age_ms"]
            await asyncio.sleep(3)
            known, used = await told(run)
            assert used == addresses(*(one for replicas in run.servers.values() for one in replicas))
            assert known["age_ms"] >= age + 2500 and known["healthy"] and known["endpoints"] == 4
            async with KubernetesApi(port) as back:
                for name in SERVERS:
                    back.put("services", service(name, protocol="http"))
                show(back, run, 1)
                await follows(run, 1)
                assert (await told(run))[0]["state"] == "ok"


async def test_a_cluster_that_suddenly_has_nothing_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(tmp_path, monkeypatch) as (api, run):
        show(api, run, 0)
        await follows(run, 0)
        async with load(run):
            show(api, run)
            api.cut()
            await asyncio.sleep(7)  # listed anew meanwhile
            assert (await told(run))[1] == addresses(*(replicas[0] for replicas in run.servers.values()))
            show(api, run, 1)
            await follows(run, 1)
