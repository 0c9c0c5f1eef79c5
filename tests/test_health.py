"""Health as a running gateway shows it: what it asks its servers while nobody calls, and what it counts."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import SHARED_OFF, environment, free_port, running, wait_listening

WAIT = 10.0
SERVER = """
import json, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        print(request["method"], file=sys.stderr, flush=True)
        result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0,
                  "cacheScope": "private", "serverInfo": {"name": "s", "version": "1"}}
        body = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers).serve_forever()
"""


def metrics(management: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{management}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for line in lines if not line.startswith("#") for name, value in [line.rsplit(" ", 1)]}


@pytest.fixture
def watched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[int, Path]]:
    """The management port of a gateway with one server that is up and one that is not, and what the first was asked."""
    port, up, management, asked = free_port(), free_port(), free_port(), tmp_path / "asked"
    (tmp_path / "server.py").write_text(SERVER)
    config = {
        "server": {"port": port, "tls": {"enabled": False}, "tcp_health_port": 0,
                   "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
        "auth": {"type": "none"},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "routing": {"health_check_interval": "100ms"},
        "health_monitoring": {"protocol_specific_checks": getattr(request, "param", True)},
        "servers": [
            {"name": "up", "url": f"http://127.0.0.1:{up}/mcp", "protocol": "http"},
            {"name": "away", "url": "ws://127.0.0.1:1/mcp"},
        ],
    }  # fmt: skip
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config))
    server = ["sh", "-c", f"exec {sys.executable} {tmp_path / 'server.py'} {up} 2>{asked}"]
    with running(server), running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield management, asked


@pytest.mark.requirement(
    "config.gateway.health_monitoring.health_check_interval",
    "config.alias.routing-interval",
    "metric.mcp_gateway_health_checks_total",
)
def test_servers_are_asked_at_their_interval_while_nobody_calls_and_every_verdict_is_counted(watched: tuple[int, Path]) -> None:
    management, asked = watched
    name = "mcp_gateway_health_checks_total"
    ends = time.monotonic() + WAIT
    while True:
        seen = metrics(management)
        healthy = seen[f'{name}{{protocol="http",result="healthy"}}']
        unhealthy = seen[f'{name}{{protocol="websocket",result="unhealthy"}}']
        if healthy >= 3 and unhealthy >= 2:
            break
        assert time.monotonic() < ends, seen
        time.sleep(0.05)
    assert seen[f'{name}{{protocol="websocket",result="healthy"}}'] == 0
    assert set(asked.read_text().split()) == {"server/discover"}


@pytest.mark.requirement("config.gateway.health_monitoring.protocol_specific_checks")
@pytest.mark.parametrize("watched", [False], indirect=True)
def test_where_connecting_is_enough_nothing_is_asked(watched: tuple[int, Path]) -> None:
    management, asked = watched
    name = "mcp_gateway_health_checks_total"
    ends = time.monotonic() + WAIT
    while True:
        seen = metrics(management)
        if seen[f'{name}{{protocol="http",result="healthy"}}'] >= 3:
            break
        assert time.monotonic() < ends, seen
        time.sleep(0.05)
    assert seen[f'{name}{{protocol="websocket",result="unhealthy"}}'] >= 1
    assert asked.read_text() == ""


VIEWS = {
    "/health": {"status", "healthy", "time", "version", "uptime_sec", "protocols", "backends", "session_store", "reasons"},
    "/healthz": {"alive"},
    "/readyz": {"ready", "reasons"},
    "/ready": {"ready", "reasons"},
    "/health/protocols": {"status", "healthy", "protocols"},
    "/health/load-balancer": {"status", "healthy", "strategy", "health_aware", "eligible", "total", "panic", "reasons"},
    "/health/protocol-detection": {"status", "healthy", "enabled", "detections", "accuracy", "duration_ms", "cache"},
    "/health/discovery": {"status", "healthy", "refresh_rate_ms", "providers"},
}
PROTOCOL = {
    "name", "enabled", "healthy", "state", "reason", "frontend", "backends", "requests_per_sec", "error_rate", "latency_ms",
    "breaker", "last_check", "time",
}  # fmt: skip
ROUTER = {
    "/health": {"status", "healthy", "mode", "gateway", "direct_clients"},
    "/health/direct-clients": {"status", "healthy", "enabled", "clients"},
    "/health/protocol-detection": VIEWS["/health/protocol-detection"],
    "/healthz": {"alive"},
    "/readyz": {"ready", "reasons"},
}


def ask(port: int, path: str) -> tuple[int, dict]:
    """Status and body of a view, without a token."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_every_health_path_answers_on_both_ports_of_a_gateway_without_a_token(tmp_path: Path) -> None:
    port, management, health = free_port(), free_port(), free_port()
    config = {
        "server": {"port": port, "tcp_port": 0, "tcp_health_port": health, "tls": {"enabled": False},
                   "stdio_socket": str(tmp_path / "gw.sock")},
        "auth": {"type": "bearer", "static_tokens": [{"name": "caller", "token": "caller-0123456789abcdef0123456789ab"}]},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "servers": [],
    }  # fmt: skip
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]
    with running(command, **dict.fromkeys(SHARED_OFF, "true")) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/readyz")
        for each in (port, management):
            for view, members in VIEWS.items():
                status, told = ask(each, view)
                assert (status, set(told)) == (200, members), (each, view, told)
            for name in ("stdio", "websocket", "http", "sse", "tcp_binary", "ws"):
                status, told = ask(each, f"/health/{name}")
                assert (status, set(told), told["healthy"]) == (200, PROTOCOL, True), (each, name, told)
        with socket.create_connection(("127.0.0.1", health), timeout=5) as probe:
            probe.sendall(b"?\n")
            assert json.loads(probe.makefile().readline()) == {"healthy": True, "status": "ok"}


def test_every_health_path_answers_on_the_port_of_a_router() -> None:
    management = free_port()
    command = [sys.executable, "-m", "mcpbridge", "router", "--", sys.executable, "-m", "mcpbridge.demo.stdio"]
    settings = {"MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{management}"}
    router = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(**settings)
    )
    try:
        assert router.stdin is not None and router.stdout is not None
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        router.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}).encode() + b"\n")
        router.stdin.flush()
        assert b'"result"' in router.stdout.readline()
        ends = time.monotonic() + WAIT
        while True:
            try:
                ask(management, "/healthz")
                break
            except OSError:
                assert time.monotonic() < ends
                time.sleep(0.05)
        for view, members in ROUTER.items():
            status, told = ask(management, view)
            assert (status, set(told)) == (200, members), (view, told)
    finally:
        router.communicate(timeout=10)
