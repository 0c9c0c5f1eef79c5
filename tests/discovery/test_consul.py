"""Servers found in Consul, against a double of its agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.discovery import Source
from mcpbridge.discovery.consul import Consul, servers_of, used
from tests.support.certificates import make_tls
from tests.support.consul_agent import ConsulAgent


def urls(source: Source) -> list[str]:
    return [endpoint.url for server in source.servers for endpoint in server.endpoints]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def watching(agent: ConsulAgent, **more: Any) -> AsyncIterator[Source]:
    source = Source("consul", lambda: None)
    task = asyncio.create_task(Consul(agent.url, **more).watch(source))
    try:
        yield source
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_tagged_and_passing_instances_come_and_go() -> None:
    async with ConsulAgent() as agent:
        await agent.register("weather", "w1", 8081)
        await agent.register("weather", "w2", 8082, passing=False)
        await agent.register("database", "d1", 5432, tags=())
        async with watching(agent, datacenter="dc7") as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])
            meta = {"mcp-protocol": "tcp_binary", "mcp-namespace": "team", "mcp-weight": "3"}
            await agent.register("second", "s1", 9001, Meta=meta, Address="")
            await until(lambda: "tcp://10.9.9.9:9001" in urls(source))
            assert {endpoint.weight for server in source.servers for endpoint in server.endpoints} == {1.0, 3.0}
            assert {server.namespace for server in source.servers} == {"default", "team"}
            await agent.register("weather", "w2", 8082)
            await until(lambda: "http://10.0.0.1:8082/mcp" in urls(source))
            await agent.deregister("s1")
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp", "http://10.0.0.1:8082/mcp"])
        assert all(query["dc"] == "dc7" for query in agent.asked)
        assert len(agent.asked) < 40, "queries block, nobody polls"


async def test_an_index_that_goes_back_starts_anew() -> None:
    async with ConsulAgent() as agent:
        await agent.register("weather", "w1", 8081)
        async with watching(agent) as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])
            await agent.turn(2)
            await agent.register("weather", "w1", 8099)
            await until(lambda: urls(source) == ["http://10.0.0.1:8099/mcp"])
            assert source.told().state == "ok"


async def test_a_token_that_may_not_read_is_said_and_never_shown() -> None:
    async with ConsulAgent(token="right-token") as agent:
        await agent.register("weather", "w1", 8081)
        async with watching(agent, token="wrong-token") as source:
            await until(lambda: source.told().state == "down")
            assert source.told().last_error == "the agent answered 403: the ACL token may not read this"
        async with watching(agent, token="right-token") as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])


async def test_an_agent_that_fails_keeps_what_was_found() -> None:
    async with ConsulAgent() as agent:
        await agent.register("weather", "w1", 8081)
        async with watching(agent) as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])
            agent.answer_with = 500
            await agent.turn(agent.index)
            await until(lambda: source.told().state == "degraded")
            assert urls(source) == ["http://10.0.0.1:8081/mcp"]
            agent.answer_with = 0
            await agent.register("weather", "w1", 8083)
            await until(lambda: urls(source) == ["http://10.0.0.1:8083/mcp"])


HOSTILE = (
    b"",
    b"<html>",
    b"[" * 100_000,
    b"[]",
    b"null",
    b"7",
    b'{"a":7}',
    b'{"a":null}',
    b"{" + b",".join(b'"s%d":["mcp"]' % number for number in range(501)) + b"}",
    b"x" * 5_000_000,
)


async def test_whatever_the_agent_says_is_no_end_of_the_watch() -> None:
    async def hear(raw: bytes) -> None:
        async with ConsulAgent() as agent:
            await agent.register("weather", "w1", 8081)
            agent.raw = raw
            async with watching(agent) as source:
                await until(lambda: source.told().state == "down")
                assert len(source.told().last_error or "") <= 200
                agent.raw = None
                await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])

    async with asyncio.TaskGroup() as group:
        for raw in HOSTILE:
            group.create_task(hear(raw), name=repr(raw[:20]))


@pytest.mark.parametrize("raw", [b"[7]", b"[null]", b'[{"Service":[]}]', b'[{"Service":{"ID":{}}}]'])
def test_whatever_instances_are_they_are_left_out_by_name(raw: bytes) -> None:
    servers, skipped = servers_of({"weather": json.loads(raw)}, True)
    assert servers == [] and all(cause.startswith("weather") for cause in skipped)


async def test_an_agent_behind_tls_is_asked_with_its_authority_only(tmp_path: Path) -> None:
    tls = make_tls(tmp_path)
    async with ConsulAgent(tls=tls.serving()) as agent:
        await agent.register("weather", "w1", 8081)
        async with watching(agent, tls=tls.calling()) as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])
        async with watching(agent) as source:
            await until(lambda: source.told().state == "down")
            assert "not trusted" in (source.told().last_error or "")


async def test_services_that_all_go_are_let_go_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpbridge.discovery.EMPTY_HOLD", 1.5)
    async with ConsulAgent() as agent:
        await agent.register("weather", "w1", 8081)
        async with watching(agent, wait=1) as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/mcp"])
            await agent.deregister("w1")
            await agent.turn(agent.index + 1)
            assert urls(source) == ["http://10.0.0.1:8081/mcp"]
            await until(lambda: urls(source) == [])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"Meta": {"mcp-protocol": "stdio"}}, "protocol 'stdio'"),
        ({"Meta": {"mcp-path": "no"}}, "path"),
        ({"Meta": {"mcp-namespace": "../x"}}, "namespace"),
        ({"Address": "169.254.169.254"}, "link-local"),
        ({"Address": "unix:///run/x"}, "name of a host"),
        ({"Address": "a@b"}, "name of a host"),
        ({"Address": "metadata.google.internal"}, "metadata"),
        ({"Address": "2852039166"}, "disguise"),
        ({"Address": "127.0.0.1"}, "this machine"),
        ({"Address": "x.LocalHost."}, "this machine"),
        ({"Port": 0}, "port"),
        ({"Meta": "sh"}, "another form"),
    ],
)
def test_a_bad_instance_is_left_out_by_name_and_the_rest_goes_on(change: Any, cause: str) -> None:
    good = {"Service": {"ID": "w1", "Address": "10.0.0.1", "Port": 1, "Meta": {"command": "/bin/sh", "env": "A=b"}}}
    bad = {"Service": {**good["Service"], "ID": "w2", **change}}
    servers, skipped = servers_of({"weather": [bad, good]}, True)
    (endpoint,) = servers[0].endpoints
    assert (endpoint.url, endpoint.command, endpoint.env) == ("http://10.0.0.1:1/mcp", "", {})
    assert len(skipped) == 1 and skipped[0].startswith("weather/w2: ") and cause in skipped[0]


async def test_an_agent_whose_index_rises_with_every_answer_is_not_asked_without_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[float] = []
    enough = asyncio.Event()
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) >= 20:
            enough.set()
        await sleep(0)

    class Hostile(Consul):
        asked = 0

        async def _ask(self, path: str, query: Any, index: int) -> tuple[int, Any]:
            self.asked += 1
            return self.asked, {}

    monkeypatch.setattr("mcpbridge.discovery.consul.asyncio.sleep", slept)
    task = asyncio.create_task(Hostile("http://10.0.0.1:8500").watch(Source("consul", lambda: None)))
    async with asyncio.timeout(5):
        await enough.wait()
    task.cancel()
    assert min(waits) >= 0.1


async def test_of_an_instance_only_what_is_used_is_kept() -> None:
    async with ConsulAgent() as agent:
        await agent.register("weather", "w1", 8081, Meta={"mcp-path": "/x", "note": "n" * 100_000})
        async with watching(agent) as source:
            await until(lambda: urls(source) == ["http://10.0.0.1:8081/x"])
    instance = {
        "Service": {"ID": "i", "Port": 1, "Address": "10.0.0.1", "Meta": {"mcp-path": "/x", "note": "n"}},
        "Checks": [1],
    }
    kept = {"Node": None, "Service": {"ID": "i", "Port": 1, "Address": "10.0.0.1", "Meta": {"mcp-path": "/x"}}}
    assert used(instance) == kept
    assert used({"Service": {"ID": "i" * 201, "Port": 1, "Meta": "no"}})["Service"]["Meta"] == "?"
    assert servers_of({"a": [used("oops")]}, True) == (
        [],
        ["a: Service, ID, Port, Address or Meta is missing or in another form"],
    )
