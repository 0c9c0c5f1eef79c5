"""A running gateway follows the servers that are found: sockets, the double of Kubernetes, the double of Consul; under load."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.discovery.test_kubernetes import SPACE, piece, service
from tests.support.consul_agent import ConsulAgent
from tests.support.kubernetes_api import KubernetesApi
from tests.support.peers import environment, free_port

pytest.importorskip("kubernetes_asyncio")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="sockets")]
ROOT = Path(__file__).resolve().parents[1]
SOCKET_SERVER = ROOT / "tests/support/socket_server.py"


class Gateway:
    """A running one, and what can be asked of it."""

    def __init__(self, base: str, errors: Path, client: aiohttp.ClientSession) -> None:
        self.base = base
        self.errors = errors
        self._client = client

    async def get(self, path: str) -> tuple[int, Any]:
        async with self._client.get(self.base + path) as answer:
            return answer.status, await answer.json()

    async def call(self, tool: str) -> Any:
        """The answer to one call, which has a result or an error."""
        params = {"name": tool, "arguments": {"text": "x"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        async with self._client.post(f"{self.base}/api/v1/execute", json=body) as answer:
            return await answer.json()

    async def backends(self) -> list[tuple[str, str, str]]:
        """Server, source and address of each."""
        _, status = await self.get("/api/v1/status")
        return [(one["server"], one["source"], one["address"]) for one in status["backends"] if one["state"] != "draining"]

    async def provider(self, name: str) -> Any:
        _, health = await self.get("/health/discovery")
        return next(one for one in health["providers"] if one["name"] == name)

    async def until(self, holds: Callable[[], Awaitable[Any]], seconds: float = 20) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not await holds():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"{await self.get('/health/discovery')}\n{self.errors.read_text()[-4000:]}") from None

    async def shows(self, *wanted: tuple[str, str, str]) -> None:
        async def holds() -> bool:
            return sorted(await self.backends()) == sorted(wanted)

        await self.until(holds)


@asynccontextmanager
async def gateway(folder: Path, *, env: dict[str, str] | None = None, **sections: Any) -> AsyncIterator[Gateway]:
    port = free_port()
    config = {
        "server": {
            "port": port, "tls": {"enabled": False},
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
        },
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {"type": "none"},
        **sections,
    }  # fmt: skip
    (folder / "gateway.json").write_text(json.dumps(config))
    errors = folder / "gateway.log"
    with errors.open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mcpbridge", "gateway", "--config", str(folder / "gateway.json"),
            env=environment(**(env or {})), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as client:
            async with asyncio.timeout(20):
                while '"gateway ready"' not in errors.read_text():
                    assert process.returncode is None, errors.read_text()
                    await asyncio.sleep(0.05)
            yield Gateway(f"http://127.0.0.1:{port}", errors, client)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 15)
    assert "Traceback" not in errors.read_text(), errors.read_text()


@asynccontextmanager
async def program(*command: str) -> AsyncIterator[str]:
    """A process for the time of the block: the first line it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, env=environment(), stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def demos(number: int) -> AsyncIterator[list[int]]:
    """Demo servers over HTTP: their ports."""
    async with AsyncExitStack() as stack:
        lines = [await stack.enter_async_context(program("-m", "mcpbridge.demo.http")) for _ in range(number)]
        yield [int(line.removesuffix("/mcp").rpartition(":")[2]) for line in lines]


@asynccontextmanager
async def load(gateway: Gateway, tool: str) -> AsyncIterator[list[Any]]:
    """Four callers without a pause; the answers that are no result."""
    failed: list[Any] = []
    done = 0
    is_over = False

    async def caller() -> None:
        nonlocal done
        while not is_over:
            answer = await gateway.call(tool)
            done += 1
            if "result" not in answer:
                failed.append(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(caller())
        yield failed
        is_over = True
    assert done > 100 and not failed, (done, failed[:3])


@pytest.mark.requirement("config.gateway.backends.stdio.socket_discovery")
async def test_a_socket_that_appears_is_a_server_and_one_that_goes_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "servers"
    folder.mkdir()
    found = {"backends": {"stdio": {"socket_discovery": True, "socket_paths": [str(folder)]}}}
    one, two = folder / "one.sock", folder / "two.sock"
    async with gateway(tmp_path, **found) as running, program(str(SOCKET_SERVER), str(one), "one"):
        await running.shows(("one", "sockets", f"unix://{one}"))
        assert "result" in await running.call("one__echo")
        async with program(str(SOCKET_SERVER), str(two), "two"), load(running, "one__echo"):
            await running.shows(("one", "sockets", f"unix://{one}"), ("two", "sockets", f"unix://{two}"))
            assert "result" in await running.call("two__echo")
            (folder / "bad name\n.sock").symlink_to(one)
            (folder / "out.sock").symlink_to("/run/nowhere")
            two.unlink()
            await running.shows(("one", "sockets", f"unix://{one}"))
        answer = await running.call("two__echo")
        assert answer["error"]["code"] in (-32602, -32601), answer
        assert (await running.provider("sockets"))["endpoints"] == 1


@pytest.mark.requirement(
    "config.gateway.discovery.providers.kubernetes.enabled",
    "config.gateway.discovery.providers.kubernetes.namespace_pattern",
    "config.gateway.discovery.providers.kubernetes.service_labels",
    "config.gateway.discovery.refresh_rate",
    "http.gateway.health.discovery",
)
async def test_a_gateway_follows_a_cluster_under_load_and_through_its_faults(tmp_path: Path) -> None:
    async with KubernetesApi() as api, demos(3) as (a, b, c):
        api.put("services", service(protocol="http", weight="2"))
        api.put("services", service("far", namespace="other"))
        api.put("endpointslices", piece("127.0.0.1", port=a))
        api.put("endpointslices", piece("127.0.0.1", name="far", namespace="other", port=b))
        found = {"discovery": {"refresh_rate": "5s", "providers": {"kubernetes": {"enabled": True}}}}

        def at(port: int) -> tuple[str, str, str]:
            return "weather", "kubernetes", f"http://127.0.0.1:{port}/mcp"

        def slices(*ports: int) -> None:
            for number, port in enumerate((a, b, c)):
                one = piece("127.0.0.1", port=port)
                one["metadata"]["name"] = f"weather-{number}"
                if port in ports:
                    api.put("endpointslices", one)
                elif (SPACE, one["metadata"]["name"]) in api.objects("endpointslices"):
                    api.delete("endpointslices", SPACE, one["metadata"]["name"])

        async with gateway(tmp_path, env={"KUBECONFIG": api.kubeconfig(tmp_path)}, **found) as running:
            await running.shows(at(a))
            _, status = await running.get("/api/v1/status")
            assert (status["backends"][0]["namespace"], status["backends"][0]["weight"]) == (SPACE, 2.0)
            assert status["discovery"]["providers"][1]["state"] == "ok"
            api.delete("endpointslices", SPACE, "weather-x")
            slices(a)
            async with load(running, "weather__echo"):
                slices(a, b)
                await running.shows(at(a), at(b))
                api.expire()
                api.cut()
                slices(b, c)
                await running.shows(at(b), at(c))
                api.answer_with = 403
                api.cut()
                await running.until(lambda: _is(running, "kubernetes", "degraded", "403"))
                slices(c)
                api.answer_with = 0
                await running.shows(at(c))
                await running.until(lambda: _is(running, "kubernetes", "ok", ""))
                api.put("services", service("bad", protocol="stdio", command="/bin/sh"))
                api.put("endpointslices", piece("127.0.0.1", name="bad", port=b))
                await running.until(lambda: _is(running, "kubernetes", "degraded", f"{SPACE}/bad: protocol 'stdio'"))
                assert await running.backends() == [at(c)]
            assert (await running.get("/health/discovery"))[0] == 200


@pytest.mark.requirement(
    "config.gateway.discovery.providers.consul.enabled",
    "config.gateway.discovery.providers.consul.address",
    "config.gateway.discovery.providers.consul.token",
    "config.gateway.discovery.providers.consul.datacenter",
    "config.gateway.discovery.providers.static.enabled",
    "config.gateway.discovery.protocol_detection",
)
async def test_a_gateway_follows_consul_under_load_and_through_its_faults(tmp_path: Path) -> None:
    token = "acl-0123456789abcdef"
    async with ConsulAgent(token=token) as agent, demos(2) as (a, b):
        consul = {"enabled": True, "address": agent.url, "token": token, "datacenter": "dc7"}
        found = {
            "discovery": {
                "providers": {
                    "consul": consul,
                    "static": {"enabled": False, "servers": [{"name": "s", "url": f"http://127.0.0.1:{b}/mcp"}]},
                },
                "protocol_detection": False,
                "refresh_rate": "2s",
            }
        }

        def at(port: int) -> tuple[str, str, str]:
            return "weather", "consul", f"http://127.0.0.1:{port}/mcp"

        await agent.register("weather", "w1", a, Address="127.0.0.1")
        async with gateway(tmp_path, **found) as running:
            await running.shows(at(a))
            async with load(running, "weather__echo"):
                await agent.register("weather", "w2", b, Address="127.0.0.1", Meta={"mcp-path": "/mcp"})
                await running.shows(at(a), at(b))
                await agent.register("weather", "w1", a, Address="127.0.0.1", passing=False)
                await running.shows(at(b))
                agent.answer_with = 403
                await agent.turn(agent.index)
                await running.until(lambda: _is(running, "consul", "degraded", "403"))
                assert await running.backends() == [at(b)], "what was found last stays"
                agent.answer_with = 0
                await agent.turn(3)  # a restored server
                await running.until(lambda: _is(running, "consul", "ok", ""))
                assert await running.backends() == [at(b)]
            _, health = await running.get("/health/discovery")
            assert {one["name"]: one["enabled"] for one in health["providers"]} == {
                "consul": True, "static": False, "sockets": False, "kubernetes": False,
            }  # fmt: skip
            assert token not in running.errors.read_text()
        assert {query["dc"] for query in agent.asked} == {"dc7"}


async def _is(running: Gateway, provider: str, state: str, error: str) -> bool:
    told = await running.provider(provider)
    return bool(told["state"] == state and error in (told["last_error"] or ""))


@pytest.mark.requirement("env.MCP_SERVICE_DISCOVERY_KUBERNETES")
async def test_without_a_cluster_the_provider_is_down_and_the_rest_serves(tmp_path: Path) -> None:
    env = {"MCP_SERVICE_DISCOVERY_KUBERNETES": "true", "KUBECONFIG": str(tmp_path / "none")}
    server = {"name": "s", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"]}
    async with gateway(tmp_path, env=env, servers=[server]) as running:
        assert "result" in await running.call("s__echo"), "there could be others, so names have their server's"
        told = await running.provider("kubernetes")
        assert (told["state"], told["healthy"], told["endpoints"]) == ("down", False, 0)
        assert "no cluster can be asked" in told["last_error"]
        assert (await running.get("/health/discovery"))[1]["status"] == "degraded"


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        (
            "kubernetes",
            {"namespace_pattern": "mcp-[a-"},
            "must be a regular expression (unterminated character set at position 4)",
        ),
        ("kubernetes", {"namespace_pattern": "a" * 1001}, "at most 1000 characters"),
        ("kubernetes", {"service_labels": {"a b": "c"}}, "a b=c is no legal label"),
        ("consul", {"tls": {"ca_file": "/x"}}, "tls belongs to an https address"),
        ("consul", {"address": "unix:///x"}, "must be a URL that begins with http"),
        ("consul", {"enabled": True, "address": "https://h", "tls": {"ca_file": "/none"}}, "its files cannot be used"),
    ],
)
async def test_a_configuration_that_cannot_be_used_is_told_with_its_place(
    tmp_path: Path, key: str, value: Any, cause: str
) -> None:
    config = {
        "server": {"tls": {"enabled": False}},
        "auth": {"type": "none"},
        "discovery": {"providers": {key: value}},
    }
    (tmp_path / "gateway.json").write_text(json.dumps(config, indent=1))
    env = environment(MCPBRIDGE_SERVER__PORT="0", MCPBRIDGE_METRICS__ENDPOINT="127.0.0.1:0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mcpbridge", "gateway", "--config", str(tmp_path / "gateway.json"),
        env=env, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 78, said
    assert cause in said.decode() and "gateway.json:" in said.decode(), said.decode()
