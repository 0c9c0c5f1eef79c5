"""The router's management port: a real router process, asked over HTTP while its client is served."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.servers import serving
from tests.detection import servers as s
from tests.support.peers import free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes")


class Window:
    """A router whose management port is open."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.base = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> tuple[int, Any]:
        return self._do(urllib.request.Request(self.base + path))

    def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        data = json.dumps(body).encode() if body is not None else b""
        return self._do(urllib.request.Request(self.base + path, data=data, headers=headers, method="POST"))

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def _do(self, request: urllib.request.Request) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                raw, status = answer.read(), answer.status
        except urllib.error.HTTPError as error:
            raw, status = error.read(), error.code
        try:
            return status, json.loads(raw)
        except ValueError:
            return status, raw.decode()


@contextlib.contextmanager
def router(folder: Path, *arguments: str, port: int | None = None, **env: str) -> Iterator[Window]:
    port = port or free_port()
    clean = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.getcwd(), **env}
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcpbridge", "router", *arguments],
            env={**clean, "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{port}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
    window = Window(process, port)
    try:
        deadline = time.monotonic() + 10
        while b"management" not in (folder / "stderr").read_bytes():
            assert time.monotonic() < deadline and process.poll() is None, (folder / "stderr").read_text()
            time.sleep(0.02)
        yield window
    finally:
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()
        try:
            process.wait(10)
        finally:
            process.kill()


INITIALIZE = {"id": 1, "method": "initialize", "params": {}}


@pytest.mark.requirement(
    "http.router.health", "http.router.health.direct-clients", "http.router.health.direct-clients.container",
    "http.router.metrics",
)  # fmt: skip
def test_a_router_without_servers_is_healthy_and_tells_so(tmp_path):
    with router(tmp_path) as window:
        status, health = window.get("/health")
        assert (status, health["mode"], health["gateway"]["configured"], health["direct_clients"]) == (
            200, "direct", False, {"total": 0, "healthy": 0},
        )  # fmt: skip
        status, clients = window.get("/health/direct-clients")
        assert (status, clients["healthy"], clients["clients"]) == (200, True, [])
        assert window.get("/healthz")[0] == window.get("/readyz")[0] == 200
        page = window.get("/metrics")[1]
        assert "# TYPE mcp_router_protocol_detection_total counter" in page and "mcp_gateway_" not in page
        assert window.ask(INITIALIZE)["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.requirement(
    "http.router.health.protocol-detection", "http.router.detect.get", "http.router.cache", "http.router.cache.clear",
    "http.router.detect.failures", "http.router.detect.refresh", "http.router.detect.post",
    "metric.mcp_router_direct_client_up",
    "metric.mcp_router_direct_requests_total", "metric.mcp_router_direct_latency_seconds",
    "metric.mcp_router_protocol_detection_duration_seconds", "metric.mcp_router_protocol_detection_cache_hits_total",
    "metric.grep.accuracy",
)  # fmt: skip
def test_what_a_router_found_out_is_shown_cleared_and_found_out_anew(tmp_path):
    with serving(s.http(s.modern())) as (port, _), router(tmp_path, f"http://127.0.0.1:{port}/mcp") as window:
        target = f"http://127.0.0.1:{port}/mcp"
        assert "result" in window.ask(INITIALIZE)
        window.ask({"id": 2, "method": "tools/list"})
        status, found = window.get("/api/v1/protocols/detect")
        assert status == 200 and found["enabled"] is True and (found["timeout_ms"], found["cache_ttl_ms"]) == (1000, 300_000)
        assert [(one["target"], one["protocol"], one["result"], one["era"]) for one in found["results"]] == [
            (target, "http", "success", "modern")
        ]
        assert found["accuracy"] == {"confirmed": 1, "total": 1, "ratio": 1.0}
        status, cache = window.get("/api/v1/protocols/cache")
        assert status == 200 and cache["entries"][0].keys() == {"target", "protocol", "era", "age_ms", "expires_in_ms", "hits"}
        status, health = window.get("/health/protocol-detection")
        assert (status, health["status"], health["detections"]) == (200, "ok", {"total": 1, "success": 1, "failed": 0})
        assert health["cache"]["misses"] == 1 and health["duration_ms"]["p50"] > 0
        clients = window.get("/health/direct-clients")[1]["clients"]
        assert [(one["protocol"], one["healthy"], one["in_flight"]) for one in clients] == [("http", True, 0)]
        page = window.get("/metrics")[1]
        for line in (
            'mcp_router_protocol_detection_total{protocol="http",result="success"} 1.0',
            'mcp_router_protocol_detection_accuracy{protocol="http"} 1.0',
            "mcp_router_protocol_detection_cache_misses_total 1.0",
            'mcp_router_direct_requests_total{protocol="http",result="success"}',
            'mcp_router_protocol_detection_duration_seconds{protocol="http",quantile="0.95"}',
            f'mcp_router_direct_client_up{{protocol="http",server="127-0-0-1-{port}"}} 1.0',
        ):
            assert line in page, line
        assert window.post("/api/v1/protocols/cache/clear") == (200, {"cleared": 1})
        assert window.post("/api/v1/protocols/cache/clear") == (200, {"cleared": 0})
        status, told = window.post("/api/v1/protocols/detect/refresh")
        assert status == 200 and told["refreshed"] == 1 and told["changed"][0]["after"] == "http"
        status, told = window.post("/api/v1/protocols/detect", {"test_endpoints": ["127.0.0.1:1", "http://169.254.169.254/"]})
        assert [one["result"] for one in told["results"]] == ["unreachable", "refused"]
        deadline = time.monotonic() + 5
        while (failures := window.get("/api/v1/protocols/detect/failures")[1])["total"] < 2:
            assert time.monotonic() < deadline  # a snapshot is served for a second
        last = failures["failures"][0]
        assert last["target"] == "127.0.0.1:1" and last["tried"][0].keys() == {"protocol", "outcome", "duration_ms"}
        assert window.get("/api/v1/protocols/conversions/failures") == (200, {"total": 0, "failures": []})


@pytest.mark.requirement("http.router.detect.post", "http.router.detect.post.many", "http.router.unauth-bind")
def test_a_page_of_a_browser_and_a_malformed_body_get_nothing_examined(tmp_path):
    with serving(s.http(s.modern())) as (port, counts), router(tmp_path) as window:
        target = {"test_endpoint": f"http://127.0.0.1:{port}/mcp"}
        path = "/api/v1/protocols/detect"
        assert window.post(path, target, Origin="https://evil.example")[0] == 403
        assert window.post(path, target, Host="evil.example")[0] == 421
        assert window.post(path, target, **{"X-Forwarded-For": "10.0.0.1"})[0] == 401
        assert window.post(path, {"test_endpoint": 7})[0] == 400
        assert window.post(path, [])[0] == 400
        assert counts.requests == 0
        assert window.post(path, target)[1]["results"][0]["result"] == "success"


@pytest.mark.requirement("config.router.metrics.endpoint", "config.router.metrics.enabled")
def test_a_port_that_somebody_has_costs_a_warning_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with router(tmp_path / "a") as first:
        with router(tmp_path / "b", port=int(first.base.rpartition(":")[2])) as second:
            assert "the management port is not open" in (tmp_path / "b" / "stderr").read_text()
            assert "result" in second.ask(INITIALIZE)
        assert first.get("/healthz")[0] == 200


def told(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit status and output of a command of this user."""
    done = subprocess.run(
        [sys.executable, "-m", "mcpbridge", *arguments], capture_output=True, text=True, timeout=20, cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.getcwd(), "XDG_RUNTIME_DIR": str(folder)},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.requirement("cli.status")
def test_two_routers_share_one_port_and_status_lists_both_until_one_is_killed(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    port, own = free_port(), {"XDG_RUNTIME_DIR": str(tmp_path)}
    editor = {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "editor\n", "version": "1.2"}}}
    with router(first, port=port, **own) as one, router(second, "--server", "x=/no/such/thing", port=port, **own) as other:
        assert "result" in one.ask(INITIALIZE) and "result" in other.ask(editor)
        assert "not open" in (second / "stderr").read_text(), "the port is taken, and yet it serves"
        status, text = told(tmp_path, "status")
        lines = {line.split()[0]: line for line in text.splitlines()}
        assert {str(one.process.pid), str(other.process.pid)} < set(lines)
        assert "editor 1.2" in lines[str(other.process.pid)] and " ok " in lines[str(one.process.pid)]
        assert status == told(tmp_path, "status", "--routers")[0] != 0, "one has a server that is down"

        status, text = told(tmp_path, "status", "--routers", "--json")
        document = json.loads(text)
        assert document["schema"] == "mcpbridge.routers/v1"
        by_pid = {row["pid"]: row["status"] for row in document["routers"]}
        assert by_pid[other.process.pid]["client"] == {"name": "editor\n", "version": "1.2", "era": "legacy"}
        assert by_pid[one.process.pid]["pid"] == one.process.pid

        status, text = told(tmp_path, "status", "--router", str(one.process.pid), "--json")
        assert (status, json.loads(text)["schema"], json.loads(text)["status"]) == (0, "mcpbridge.status/v1", "ok")
        assert told(tmp_path, "tui", "--once", "--router", str(one.process.pid))[0] == 0
        assert told(tmp_path, "status", "--router", "1")[0] == 69
        text = told(tmp_path, "doctor", "--timeout", "1")[1]
        assert f"router {one.process.pid}" in text and f"status --router {other.process.pid}" in text

        other.process.kill()
        other.process.wait(5)
        assert len(list((tmp_path / "mcpbridge").iterdir())) == 2, "it left its socket"
        assert str(other.process.pid) not in told(tmp_path, "status", "--routers")[1]
        assert [path.name.split("-")[1] for path in (tmp_path / "mcpbridge").iterdir()] == [str(one.process.pid)]
    assert list((tmp_path / "mcpbridge").iterdir()) == [], "who ends in order takes its socket away"
    assert told(tmp_path, "status", "--routers") == (0, "no router runs here for you\n")


@pytest.mark.requirement("cli.status")
def test_a_configured_gateway_that_is_down_stays_down_although_routers_run(tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text(f"metrics: {{endpoint: '127.0.0.1:{free_port()}'}}\nauth: {{type: none}}\n")
    with router(tmp_path, XDG_RUNTIME_DIR=str(tmp_path)) as window:
        status, text = told(tmp_path, "status")
    assert status == 2 and "unreachable" in text and str(window.process.pid) in text


@pytest.mark.requirement("cli.status")
def test_a_router_whose_socket_cannot_be_made_serves_and_says_so(tmp_path):
    (tmp_path / "mcpbridge").write_text("in the way")
    with router(tmp_path, XDG_RUNTIME_DIR=str(tmp_path)) as window:
        assert "result" in window.ask(INITIALIZE)
    assert "the control socket is not open" in (tmp_path / "stderr").read_text()
