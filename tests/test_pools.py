"""Kept connections of running programs: what the router's window and the gateway's API tell of them, and tidying them up."""

from __future__ import annotations

import itertools
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


@pytest.mark.requirement(
    "config.router.advanced.circuit_breaker.failure_threshold",
    "config.router.advanced.circuit_breaker.success_threshold",
    "config.router.advanced.circuit_breaker.timeout_seconds",
)
@pytest.mark.parametrize("way", ["direct", "gateway"])
def test_the_router_leaves_a_server_that_keeps_failing_alone_for_a_while(tmp_path: Path, way: str) -> None:
    """Two nonsense answers open the breaker; after its time one good answer closes it."""
    breaker = {"failure_threshold": 2, "success_threshold": 1, "timeout_seconds": 1}
    port = free_port()
    address = f"http://127.0.0.1:{port}/mcp"
    reached = (
        {"gateway": {"url": address, "auth": {"type": "none"}}}
        if way == "gateway"
        else {"servers": [{"name": "s", "url": address, "protocol": "http"}], "routing": {"prefix": "auto"}}
    )
    (tmp_path / "router.yaml").write_text(json.dumps({**reached, "advanced": {"circuit_breaker": breaker}}))
    sign = tmp_path / "s.garble"
    program = [sys.executable, "tests/chaos/replica.py", "http", "modern", str(tmp_path), "s", str(port)]
    with running(program) as server:
        assert server.stdout is not None and server.stdout.readline() == "ready\n"
        with router(tmp_path, "--config", str(tmp_path / "router.yaml")) as window:
            ids = itertools.count(1)

            def call() -> dict[str, Any]:
                params = {"name": "t", "arguments": {"token": "well"}, "_meta": META}
                return window.ask({"id": next(ids), "method": "tools/call", "params": params})

            assert "result" in call()
            sign.write_text("wrong version")
            assert [call()["error"]["data"]["reason"] for _ in range(2)] == ["bad_answer"] * 2
            sign.unlink()
            refused = call()["error"]
            assert (refused["code"], refused["data"]["reason"], refused["data"]["retry_after"]) == (1011, "breaker_open", 1)
            assert "failed 2 times in a row" in refused["message"]
            answer = until(call, lambda answer: "result" in answer)
            assert answer["result"]["content"][0]["text"] == "well"


@pytest.mark.requirement(
    "config.router.gateway.connection.pool.enabled",
    "config.router.gateway.connection.pool.min_size",
    "config.router.gateway.connection.pool.health_check_interval_ms",
    "config.router.direct_clients.pool",
)
@pytest.mark.parametrize("way", ["direct", "gateway"])
def test_a_router_keeps_connections_and_replaces_those_that_have_died(tmp_path: Path, way: str) -> None:
    pool = {"enabled": True, "min_size": 2, "max_size": 3, "health_check_interval_ms": 100}
    port = free_port()
    address = f"http://127.0.0.1:{port}/mcp"
    reached = (
        {"gateway": {"url": address, "auth": {"type": "none"}, "connection": {"pool": pool}}}
        if way == "gateway"
        else {"servers": [{"name": "s", "url": address, "protocol": "http"}], "direct_clients": {"pool": pool}}
    )
    (tmp_path / "router.yaml").write_text(json.dumps(reached))
    program = [sys.executable, "-m", "mcpbridge.demo.http", "--port", str(port)]
    with router(tmp_path, "--config", str(tmp_path / "router.yaml")) as window:

        def kept() -> tuple[int, int, int]:
            found = window.get("/api/v1/status")[1]["pools"]
            return (found[0]["idle"], found[0]["min_size"], found[0]["max_size"]) if found else (0, 0, 0)

        for _ in range(2):  # the second time it is another server, which finds none of the first one's connections
            with running(program) as process:
                wait_listening(process, address)
                until(kept, lambda found: found == (2, 2, 3))
            until(kept, lambda found: found == (0, 2, 3))
