"""Kept connections of running programs: what the router's window and the gateway's API tell of them, and tidying them up."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening
from tests.test_balancing import ask
from tests.test_management import router

META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture
def demo() -> Iterator[str]:
    """The address of a running demo server."""
    port = free_port()
    with running([sys.executable, "-m", "mcpbridge.demo.http", "--port", str(port)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/mcp")
        yield f"http://127.0.0.1:{port}/mcp"


def until(look: Callable[[], Any], good: Callable[[Any], bool], wait: float = 10.0) -> Any:
    """What ``look`` sees once it is good; a snapshot is up to a second old."""
    ends = time.monotonic() + wait
    while not good(seen := look()):
        assert time.monotonic() < ends, seen
        time.sleep(0.05)
    return seen


@pytest.mark.requirement(
    "metric.mcp_router_connection_pool_size",
    "metric.mcp_router_connection_pool_hits_total",
    "metric.mcp_router_connection_pool_misses_total",
    "metric.mcp_router_connection_pool_efficiency",
    "metric.grep.pool",
    "http.router.connections.optimize",
)
def test_a_router_counts_its_connections_and_closes_those_that_nobody_uses(tmp_path: Path, demo: str) -> None:
    with router(tmp_path, "--server", f"demo={demo}") as window:
        metrics = window.get("/metrics")[1]
        for name in ("size", "hits_total", "misses_total", "efficiency"):
            assert f"# TYPE mcp_router_connection_pool_{name} " in metrics
        for number in range(8):
            params = {"name": "demo__echo", "arguments": {"text": "x"}, "_meta": META}
            assert "result" in window.ask({"id": number, "method": "tools/call", "params": params})
        pools = until(
            lambda: window.get("/api/v1/status")[1]["pools"], lambda found: found and found[0]["hits"] + found[0]["misses"] >= 9
        )
        assert [(one["server"], one["protocol"]) for one in pools] == [("demo", "http")]
        pool = pools[0]
        assert pool["efficiency"] == pytest.approx(pool["hits"] / (pool["hits"] + pool["misses"]), abs=1e-6)
        assert pool["hits"] >= 5 and pool["size"] == pool["in_use"] + pool["idle"] >= 1
        metrics = window.get("/metrics")[1]
        for name, value in (("hits_total", pool["hits"]), ("misses_total", pool["misses"]), ("size", pool["size"])):
            assert f'mcp_router_connection_pool_{name}{{protocol="http"}} {value:.1f}' in metrics
        status, answer = window.post("/api/v1/connections/optimize")
        assert status == 200
        (told,) = answer["pools"]
        assert (told["server"], told["protocol"], told["before"], told["opened"]) == ("demo", "http", pool["size"], 0)
        assert told["closed"] == told["before"] - told["after"] >= 1
        assert "result" in window.ask({"id": 99, "method": "tools/list", "params": {"_meta": META}})


@pytest.mark.requirement("config.gateway.connection.pool.min_size", "config.gateway.connection.pool.max_size")
def test_a_gateway_opens_connections_ahead_and_keeps_them(tmp_path: Path, demo: str) -> None:
    own, management = free_port(), free_port()
    config = {
        "server": {
            "port": own,
            "tls": {"enabled": False},
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
        },
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "auth": {"type": "none"},
        "connection": {"pool": {"min_size": 2, "max_size": 3, "idle_timeout": "1s"}},
        "servers": [
            {"name": "web", "url": demo, "protocol": "http"},
            {"name": "child", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"]},
        ],
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config))
    base = f"http://127.0.0.1:{own}"

    def pools() -> dict[str, Any]:
        return {one["server"]: one for one in ask(f"{base}/api/v1/status")[1]["pools"]}

    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"{base}/healthz")
        found = until(pools, lambda found: found.get("web", {}).get("idle") == 2 and found["child"]["size"] == 1)
        assert (found["web"]["min_size"], found["web"]["max_size"], found["child"]["protocol"]) == (2, 3, "stdio")
        told = {one["server"]: one for one in ask(f"{base}/api/v1/connections/optimize", {})[1]["pools"]}
        assert (told["web"]["after"], told["child"]["closed"]) == (2, 0)  # a child stays
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "web__echo", "arguments": {"text": "x"}}}
        assert "result" in ask(f"{base}/api/v1/execute", body)[1]
