"""Detection is no way into a network: API callers reach what is configured or listed, at the address that was checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.core.detect import Guard, Target
from mcpbridge.detect.detector import Detector
from tests.cli.servers import serving
from tests.detection import servers as s
from tests.detection.wires import Answer, Counts, Request, Shape, running
from tests.support.peers import free_port

pytestmark = pytest.mark.security

TOKENS = {"reader": "reader-token-that-is-32-characters-long", "admin": "admin-token-that-is-32-characters-long-too"}


@pytest.fixture
async def detector() -> Any:
    async with asyncio.TaskGroup() as group:
        yield Detector(group.create_task)


async def test_a_name_that_leads_here_is_not_connected_to_although_it_is_listed(detector, monkeypatch):
    """DNS rebinding: the name is allowed, its address is this machine's."""
    counts = Counts()
    async with running(s.http(s.modern()), Shape(), counts) as port:

        async def rebound(_host: str, port: int) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr("mcpbridge.detect.line.lookup", rebound)
        guard = Guard([], ["tools.example"], loopback=False)
        ((verdict, _),) = await detector.inspect([f"http://tools.example:{port}/mcp"], guard)
        assert (verdict.result, counts.requests, counts.most) == ("unreachable", 0, 0)


async def test_a_redirect_is_never_followed_to_another_place(detector):
    canary = Counts()
    async with running(s.http(s.modern()), Shape(), canary) as trap:

        async def redirects(request: Request, _counts: Counts) -> Answer:
            status = {"POST": 307, "GET": 302}.get(request.method, 308)
            return Answer(status, b"", "text/plain", {"location": f"http://127.0.0.1:{trap}{request.path}/"})

        async with running(s.http(redirects), Shape(), Counts()) as port:
            target = f"http://127.0.0.1:{port}/mcp"
            ((verdict, _),) = await detector.inspect([target], Guard([target], loopback=False))
    assert (verdict.result, canary.requests, canary.most) == ("unknown", 0, 0)


async def test_nothing_of_a_server_is_echoed_in_a_verdict(detector):
    secret = "sEcReT-canary-7f3a"

    async def tells(request: Request, _counts: Counts) -> Answer:
        return Answer(
            400, json.dumps({"error": secret, "jsonrpc": "2.0", "id": None}).encode(), "application/json", {"x": secret}
        )

    async with running(s.http(tells), Shape(), Counts()) as port:
        target = f"http://127.0.0.1:{port}/mcp?key={secret}"
        ((verdict, _),) = await detector.inspect([target], Guard([target], loopback=False))
    assert secret not in repr(verdict) and secret not in repr(list(detector.failures))


async def test_the_address_is_looked_up_once_and_every_probe_goes_there(detector, monkeypatch):
    calls = 0
    counts = Counts()

    async def once(_host: str, port: int) -> Any:
        nonlocal calls
        calls += 1
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1" if calls == 1 else "127.0.0.9", port))]

    monkeypatch.setattr("mcpbridge.detect.line.lookup", once)
    async with running(s.http(s.says(200, s.HTML, "text/html")), Shape(), counts) as port:
        verdict, _ = await detector.find(f"http://localhost:{port}/mcp")
    assert (verdict.result, calls) == ("unknown", 1) and counts.requests >= 3


@contextlib.contextmanager
def gateway(folder: Path, target: str) -> Iterator[str]:
    """A gateway with sign-in, one configured server and its management port; the port's address."""
    port, management = free_port(), free_port()
    config = {
        "server": {"host": "127.0.0.1", "port": port, "tls": {"enabled": False},
                   "protocols": {"tcp_binary": {"enabled": False}, "stdio": {"enabled": False}}},
        "auth": {"type": "bearer", "static_tokens": [
            {"name": "reader", "token": TOKENS["reader"], "scopes": ["mcp:read"]},
            {"name": "admin", "token": TOKENS["admin"], "scopes": ["mcp:read", "mcp:admin"]},
        ]},
        "sessions": {"store": "memory"},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "discovery": {"providers": {"static": {"servers": [{"name": "one", "url": target}]}}},
    }  # fmt: skip
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.getcwd()}
    with (folder / "stderr").open("wb") as errors:
        command = [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]
        process = subprocess.Popen(command, env=clean, stdin=subprocess.DEVNULL, stderr=errors)
    try:
        deadline = time.monotonic() + 15
        while b"gateway ready" not in (folder / "stderr").read_bytes():
            assert process.poll() is None and time.monotonic() < deadline, (folder / "stderr").read_text()
            time.sleep(0.02)
        yield f"http://127.0.0.1:{management}"
    finally:
        process.terminate()
        try:
            process.wait(10)
        finally:
            process.kill()


def call(base: str, path: str, body: Any = None, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {TOKENS[token]}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.requirement(
    "http.gateway.detect.post", "http.gateway.detect.get", "http.gateway.cache", "http.gateway.conversions.failures",
    "config.gateway.protocol_detection.enabled", "config.gateway.protocol_detection.timeout",
    "metric.mcp_gateway_protocol_detection_total", "metric.mcp_gateway_protocol_detection_accuracy",
    "metric.mcp_gateway_protocol_detection_duration_seconds", "metric.mcp_gateway_protocol_detection_cache_hits_total",
    "metric.mcp_gateway_protocol_detection_cache_misses_total",
)  # fmt: skip
def test_a_gateway_examines_configured_servers_only_and_only_for_administrators(tmp_path):
    with serving(s.http(s.modern())) as (port, _), serving(s.http(s.modern())) as (other, canary):
        target, foreign = f"http://127.0.0.1:{port}/mcp", f"http://127.0.0.1:{other}/mcp"
        with gateway(tmp_path, target) as base:
            detect = "/api/v1/protocols/detect"
            body = {"test_endpoints": [target, foreign, "localhost:1", "http://169.254.169.254/"]}
            assert call(base, detect, body)[0] == 401  # also from this very machine
            assert call(base, detect, body, "reader")[0] == 403
            status, told = call(base, detect, body, "admin")
            assert status == 200
            assert [one["result"] for one in told["results"]] == ["success", "refused", "refused", "refused"]
            assert (canary.requests, canary.most) == (0, 0)
            status, found = call(base, detect, token="reader")
            assert status == 200 and found["timeout_ms"] == 1000 and found["fallback_protocol"] == "http"
            assert [(one["target"], one["protocol"]) for one in found["results"]] == [(target, "http")]
            assert call(base, "/api/v1/protocols/cache", token="reader")[1]["entries"][0]["target"] == target
            assert call(base, "/api/v1/protocols/conversions/failures", token="reader")[1] == {"total": 0, "failures": []}
            assert call(base, "/api/v1/protocols/cache/clear", {}, "admin") == (200, {"cleared": 1})
            assert call(base, "/api/v1/protocols/detect/refresh", {}, "admin")[1]["refreshed"] == 1
            page = urllib.request.urlopen(f"{base}/metrics", timeout=5).read().decode()
            assert 'mcp_gateway_protocol_detection_total{protocol="http",result="success"} 2.0' in page
            assert 'mcp_gateway_protocol_detection_total{protocol="none",result="refused"} 3.0' in page
            assert 'mcp_gateway_protocol_detection_duration_seconds_count{protocol="http"} 2.0' in page
            assert 'mcp_gateway_protocol_detection_accuracy{protocol="http"} 1.0' in page


def test_targets_are_hidden_from_readers_who_may_not_know_addresses():
    from mcpbridge.admin import protocols
    from mcpbridge.observe.findings import Detections, Failed, Found
    from tests.observe.test_snapshot import snapshot

    found = Found("http://10.0.0.1/mcp", "http", "modern", "success", 1.0, 1.0, False, 1.0, 1.0)
    detection = Detections(True, 1000.0, 300_000.0, "http", results=(found,), failures=(Failed("t", "http://10.0.0.2/", "x"),))
    hidden = protocols.redacted(snapshot(detection=detection))
    assert "10.0.0" not in repr(hidden.detection)
    assert Target.of("http://a/?secret=1").place == "http://a/"
