"""Servers found in Kubernetes: the real client library against the double of the API, and real kubectl against the same."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.discovery import Source
from mcpbridge.discovery.kubernetes import Kubernetes, servers_of
from tests.support.kubernetes_api import KubernetesApi

pytest.importorskip("kubernetes_asyncio")
SPACE = "mcp-servers-a"


def service(name: str = "weather", namespace: str = SPACE, enabled: str = "true", **notes: str) -> dict[str, Any]:
    annotations = {f"mcp.bridge/{key}": value for key, value in notes.items()}
    return {"metadata": {"name": name, "namespace": namespace, "labels": {"mcp-enabled": enabled}, "annotations": annotations}}


def piece(*addresses: str, name: str = "weather", namespace: str = SPACE, ready: bool = True, port: Any = 8081) -> Any:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"name": f"{name}-x", "namespace": namespace, "labels": labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
        "ports": [{"name": "mcp", "port": port, "protocol": "TCP"}],
    }


def keyed(*items: Any) -> dict[tuple[str, str], Any]:
    return {(item["metadata"]["namespace"], item["metadata"]["name"]): item for item in items}


def urls(source: Source) -> list[str]:
    return [endpoint.url for server in source.servers for endpoint in server.endpoints]


class Watched:
    """A source that can be waited for."""

    def __init__(self) -> None:
        self.source = Source("kubernetes", lambda: None)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.01)

    async def shows(self, *wanted: str) -> None:
        await self.until(lambda: urls(self.source) == list(wanted))


@asynccontextmanager
async def watching(api: KubernetesApi, folder: Path, refresh_rate: float = 30.0) -> AsyncIterator[Watched]:
    found = Watched()
    pattern = "mcp-servers.*"
    provider = Kubernetes(
        pattern, {"mcp-enabled": "true"}, detect=True, refresh_rate=refresh_rate, kubeconfig=api.kubeconfig(folder)
    )
    task = asyncio.create_task(provider.watch(found.source))
    try:
        yield found
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_labelled_service_appears_moves_and_vanishes(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("services", service("other", enabled="false"))
        api.put("services", service("far", namespace="kube-mcp-servers"))
        api.put("endpointslices", piece("10.0.0.7"))
        api.put("endpointslices", piece("10.0.0.8", name="other"))
        api.put("endpointslices", piece("10.0.0.9", name="far", namespace="kube-mcp-servers"))
        async with watching(api, tmp_path) as found:
            await found.shows("http://10.0.0.7:8081/mcp")
            assert found.source.servers[0].namespace == SPACE
            api.put("endpointslices", piece("10.0.0.7", "10.0.0.6"))
            await found.shows("http://10.0.0.6:8081/mcp", "http://10.0.0.7:8081/mcp")
            api.put("services", service("second", protocol="websocket", path="/w"))
            api.put("endpointslices", piece("10.0.0.5", name="second"))
            await found.until(lambda: "ws://10.0.0.5:8081/w" in urls(found.source))
            api.delete("services", SPACE, "weather")
            await found.shows("ws://10.0.0.5:8081/w")


async def test_a_cut_watch_goes_on_from_the_last_bookmark(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("endpointslices", piece("10.0.0.7"))
        async with watching(api, tmp_path) as found:
            await found.shows("http://10.0.0.7:8081/mcp")
            await found.until(lambda: len(api.asked) == 4)
            api.expire()
            api.bookmark()
            api.cut()
            api.put("endpointslices", piece("10.0.0.6"))
            await found.shows("http://10.0.0.6:8081/mcp")
            assert [what for what, _ in api.asked].count("list") == 2, "a bookmark saves the list"


async def test_a_place_that_is_too_old_is_listed_again(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("endpointslices", piece("10.0.0.7"))
        async with watching(api, tmp_path) as found:
            await found.shows("http://10.0.0.7:8081/mcp")
            await found.until(lambda: len(api.asked) == 4)
            api.expire()
            api.cut()
            api.put("endpointslices", piece("10.0.0.6"))
            await found.shows("http://10.0.0.6:8081/mcp")
            await found.until(lambda: [what for what, _ in api.asked].count("list") == 4)
            assert found.source.told().state == "ok"


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_a_refusal_keeps_what_was_found_and_ends(tmp_path: Path, status: int) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("endpointslices", piece("10.0.0.7"))
        async with watching(api, tmp_path) as found:
            await found.shows("http://10.0.0.7:8081/mcp")
            api.answer_with, api.retry_after = status, "1" if status == 429 else ""
            api.cut()
            await found.until(lambda: found.source.told().state == "degraded")
            assert str(status) in (found.source.told().last_error or "")
            assert urls(found.source) == ["http://10.0.0.7:8081/mcp"]
            api.answer_with = 0
            api.put("endpointslices", piece("10.0.0.6"))
            await found.shows("http://10.0.0.6:8081/mcp")
            await found.until(lambda: found.source.told().state == "ok")


async def test_a_refusal_is_obeyed_when_it_says_how_long_to_wait(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.answer_with, api.retry_after = 429, "60"
        async with watching(api, tmp_path) as found:
            await found.until(lambda: len(api.asked) == 2)
            api.answer_with = 0
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):  # without the word it would be half a second
                    await found.until(lambda: len(api.asked) > 2)
            assert "answered 429" in (found.source.told().last_error or "")


async def test_a_token_that_ended_is_read_anew(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("endpointslices", piece("10.0.0.7"))
        async with watching(api, tmp_path) as found:
            await found.shows("http://10.0.0.7:8081/mcp")
            api.token = "next"
            api.cut()
            await found.until(lambda: "401" in (found.source.told().last_error or ""))
            api.kubeconfig(tmp_path)
            api.put("endpointslices", piece("10.0.0.6"))
            await found.shows("http://10.0.0.6:8081/mcp")


async def test_pages_of_a_list_are_put_together(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.page = 2
        for number in range(5):
            api.put("services", service(f"s{number}"))
            api.put("endpointslices", piece(f"10.0.0.{number}", name=f"s{number}"))
        async with watching(api, tmp_path) as found:
            await found.shows(*(f"http://10.0.0.{number}:8081/mcp" for number in range(5)))


HOSTILE = (
    b"<html>",
    b"[" * 100_000,
    b"{}",
    b"[]",
    b"7",
    b"null",
    b"\xff\xfe",
    b"x" * 300_000,
    b'{"type":"ADDED"}',
    b'{"type":"ERROR","object":{"code":"x"}}',
    b'{"type":"ADDED","object":{"metadata":{"namespace":7}}}',
    b'{"items":{"a":1},"metadata":[]}',
    b'{"items":[{"metadata":{"namespace":null}}],"metadata":{}}',
    b'{"metadata":{"continue":"x"}}',
)


@pytest.mark.parametrize("asked", ["list", "watch"])
async def test_whatever_the_api_says_is_no_end_of_the_watch(tmp_path: Path, monkeypatch: Any, asked: str) -> None:
    monkeypatch.setattr("mcpbridge.discovery.kubernetes.MAX_PAGE", 200_000)
    monkeypatch.setattr("mcpbridge.discovery.kubernetes.MAX_EVENT", 200_000)
    monkeypatch.setattr("mcpbridge.discovery.kubernetes.MAX_OBJECTS", 5)

    async def hear(raw: bytes, folder: Path) -> None:
        folder.mkdir()
        async with KubernetesApi() as api:
            api.put("services", service())
            api.put("endpointslices", piece("10.0.0.7"))
            api.raw = {asked: raw + b"\n"}
            async with watching(api, folder) as found:
                await found.until(lambda: found.source.told().state in ("down", "degraded"))
                assert len(found.source.told().last_error or "") < 300
                api.raw = {}
                await found.shows("http://10.0.0.7:8081/mcp")
                await found.until(lambda: found.source.told().state == "ok")

    async with asyncio.TaskGroup() as group:
        for number, raw in enumerate(HOSTILE):
            group.create_task(hear(raw, tmp_path / str(number)), name=repr(raw[:40]))


async def test_an_unreachable_cluster_is_down_and_said(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        pass
    async with watching(api, tmp_path) as found:
        await found.until(lambda: found.source.told().state == "down")
        assert urls(found.source) == []


async def test_without_cluster_and_kubeconfig_the_provider_is_down(tmp_path: Path) -> None:
    provider = Kubernetes(".*", {}, detect=True, refresh_rate=30.0, kubeconfig=str(tmp_path / "none"))
    found = Watched()
    task = asyncio.create_task(provider.watch(found.source))
    await found.until(lambda: found.source.told().state == "down")
    task.cancel()


@pytest.mark.parametrize(
    ("notes", "address", "port", "cause"),
    [
        ({"protocol": "stdio"}, "10.0.0.7", 1, "protocol 'stdio'"),
        ({"protocol": "sh -c id"}, "10.0.0.7", 1, "protocol"),
        ({"path": "mcp"}, "10.0.0.7", 1, "path"),
        ({"path": "/${secret:token}"}, "10.0.0.7", 1, "path"),
        ({"path": "/a\r\nHost: b"}, "10.0.0.7", 1, "path"),
        ({}, "169.254.169.254", 80, "link-local"),
        ({}, "::ffff:169.254.169.254", 80, "link-local"),
        ({}, "fe80::1", 80, "link-local"),
        ({}, "64:ff9b::a9fe:a9fe", 80, "link-local"),
        ({}, "2002:a9fe:a9fe::1", 80, "link-local"),
        ({}, "255.255.255.255", 80, "nobody"),
        ({}, "0.0.0.0", 80, "nobody"),
        ({}, "100.100.100.200", 80, "metadata"),
        ({}, "metadata.google.internal", 80, "names are not taken"),
        ({}, "2852039166", 80, "no address"),
        ({}, 7, 80, "address"),
        ({}, "127.0.0.1", 9090, "this machine"),
        ({}, "::1", 9090, "this machine"),
        ({}, "::ffff:127.0.0.1", 9090, "this machine"),
        ({}, "10.0.0.7", 0, "port"),
        ({}, "10.0.0.7", "8081; id", "port"),
        ({}, "10.0.0.7", True, "port"),
        ({"weight": "-1"}, "10.0.0.7", 1, "weight '-1'"),
        ({"weight": "nan"}, "10.0.0.7", 1, "weight 'nan'"),
        ({"weight": "1e3"}, "10.0.0.7", 1, "weight '1e3'"),
    ],
)
def test_a_bad_object_is_left_out_by_name_and_the_rest_goes_on(notes: Any, address: str, port: Any, cause: str) -> None:
    bad = service("bad", **notes)
    bad["metadata"]["annotations"] |= {"mcp.bridge/command": "/bin/sh", "mcp.bridge/env": "A=b", "mcp.bridge/headers": "x"}
    services = keyed(bad, service())
    slices = keyed(piece(address, name="bad", port=port), piece("10.0.0.1"))
    servers, skipped = servers_of(services, slices, True)
    assert [server.name for server in servers] == ["weather"]
    assert len(skipped) == 1 and skipped[0].startswith(f"{SPACE}/bad: ") and cause in skipped[0]


def test_nothing_but_an_address_comes_from_a_cluster() -> None:
    notes = {"command": "/bin/sh", "args": "-c id", "env": "A=b", "headers": "a: b", "token_env": "HOME", "url": "unix:///x"}
    servers, skipped = servers_of(keyed(service(**notes)), keyed(piece("10.0.0.1")), False)
    (endpoint,) = servers[0].endpoints
    assert (endpoint.url, endpoint.protocol) == ("http://10.0.0.1:8081/mcp", "http")
    assert not (endpoint.command or endpoint.args or endpoint.env or endpoint.headers or endpoint.token_env or endpoint.tls)
    assert skipped == []


def test_annotations_say_protocol_path_and_weight() -> None:
    notes = {"protocol": "sse", "path": "/events", "weight": "2.5"}
    (server,), _ = servers_of(keyed(service(**notes)), keyed(piece("10.0.0.1", "::1")), True, local=True)
    assert [(one.url, one.protocol, one.weight) for one in server.endpoints] == [
        ("sse://10.0.0.1:8081/events", "sse", 2.5),
        ("sse://[::1]:8081/events", "sse", 2.5),
    ]


def test_what_is_not_ready_is_no_endpoint() -> None:
    assert servers_of(keyed(service()), keyed(piece("10.0.0.1", ready=False)), True) == ([], [])


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
async def test_real_kubectl_agrees_with_the_double(tmp_path: Path) -> None:
    async with KubernetesApi() as api:
        api.put("services", service())
        api.put("endpointslices", piece("10.0.0.7"))
        command = [
            "kubectl",
            "--kubeconfig",
            api.kubeconfig(tmp_path),
            f"--cache-dir={tmp_path}/c",
            "get",
            "endpointslices",
            "-A",
        ]
        environment = {**os.environ, "HOME": str(tmp_path)}
        pipe = asyncio.subprocess.PIPE
        listing = await asyncio.create_subprocess_exec(*command, "-o", "json", env=environment, stdout=pipe, stderr=pipe)
        out, err = await asyncio.wait_for(listing.communicate(), 30)
        assert listing.returncode == 0, err
        assert json.loads(out)["items"][0]["endpoints"][0]["addresses"] == ["10.0.0.7"]
        watch = await asyncio.create_subprocess_exec(*command, "-w", "-o", "name", env=environment, stdout=pipe, stderr=pipe)
        assert watch.stdout is not None
        try:
            said = [(await asyncio.wait_for(watch.stdout.readline(), 30)).decode().strip()]
            api.put("endpointslices", piece("10.0.0.8", name="second"))
            said.append((await asyncio.wait_for(watch.stdout.readline(), 30)).decode().strip())
        finally:
            watch.kill()
            await watch.wait()
        assert said == [f"endpointslice.discovery.k8s.io/{name}-x" for name in ("weather", "second")]
