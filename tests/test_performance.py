"""How fast the two ways are, what the collector costs, and where both are told."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from mcpbridge.observe.performance import Collections, Memory, Performance, Pooling, ProtocolPerformance, Way, merge_memory
from mcpbridge.observe.performance import merge_performance as merge
from mcpbridge.observe.sketch import Latency
from mcpbridge.performance import ENOUGH, MAX_METHODS, Housekeeping, Speed
from tests.support.peers import free_port, running, wait_listening
from tests.test_balancing import ask
from tests.test_management import router
from tests.test_pools import META, demo, until  # noqa: F401 - demo is a fixture


def near(value: float) -> Any:
    return pytest.approx(value, rel=0.02)


def test_calls_are_told_by_protocol_and_by_way() -> None:
    speed = Speed()
    for seconds in (0.1, 0.1, 0.3):
        speed.attempted("http", seconds, False, 1.0)
        speed.went("direct", "tools/call", seconds, 1.0)
    speed.attempted("http", None, True, 1.0)
    speed.attempted("stdio", None, False, 1.0)
    told = speed.snapshot(None, True, 2.0)
    assert told.connection_pooling == Pooling(True)
    assert (told.direct.latency_ms.p50, told.gateway.latency_ms.p50) == (near(100), None)
    http, stdio = told.protocols
    assert (http.protocol, http.requests_total, http.latency_ms.p99, http.error_rate) == ("http", 4, near(300), 0.25)
    assert stdio == ProtocolPerformance("stdio", 1, Latency(), 0.0)


@pytest.mark.parametrize(
    ("direct", "through", "percent"), [(ENOUGH, ENOUGH, 75.0), (ENOUGH - 1, 99, None), (99, ENOUGH - 1, None)]
)
def test_the_ways_are_compared_by_methods_that_both_have_served_often_enough(
    direct: int, through: int, percent: float | None
) -> None:
    speed = Speed()
    for _ in range(direct):
        speed.went("direct", "tools/call", 0.01, 1.0)
    for _ in range(through):
        speed.went("gateway", "tools/call", 0.04, 1.0)
        speed.went("gateway", "tools/list", 0.001, 1.0)
    found = speed.snapshot(None, True, 1.0).latency_improvement_percent
    assert found == (percent if percent is None else pytest.approx(percent, abs=1.0))


def test_methods_that_clients_invent_do_not_fill_the_memory() -> None:
    speed = Speed()
    for number in range(10 * MAX_METHODS):
        speed.went("direct", f"x/{number}", 0.01, 1.0)
    assert len(speed._ways) == 2 * MAX_METHODS


def test_garbage_is_collected_while_no_call_is_under_way_and_only_if_that_may(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: made.append(1))
    monkeypatch.setattr(gc, "get_count", lambda: (10, 5, 0))
    calls = 1
    keeping = Housekeeping(lambda: calls, enabled=True)
    keeping.look()
    calls = 0
    keeping.look()
    assert (len(made), keeping.snapshot(0.0).gc.cycles_total) == (1, 1)
    monkeypatch.setattr(gc, "get_count", lambda: (10, 0, 0))
    keeping.look()
    Housekeeping(lambda: 0, enabled=False).look()
    assert len(made) == 1


def test_several_workers_make_one_picture() -> None:
    one = Performance(
        Pooling(True, 3, 1), Way(Latency(1, 2, 3)), protocols=(ProtocolPerformance("http", 4, Latency(1, 2, 3), 0.5),)
    )
    other = Performance(
        Pooling(True, 1, 3), Way(Latency(2, 1, 1)), protocols=(ProtocolPerformance("http", 1, Latency(), None),)
    )
    both = merge([one, UNSET, other])
    assert isinstance(both, Performance)
    assert (both.connection_pooling.efficiency, both.direct.latency_ms) == (0.5, Latency(2, 2, 3))
    assert both.protocols == (ProtocolPerformance("http", 5, Latency(1, 2, 3), 0.5),)
    assert merge([UNSET]) is UNSET and merge([one]) is one
    parts = [Memory(True, 10, 5, Collections(1, 2, Latency(1))), Memory(False, None, None, Collections(3, 4))]
    assert merge_memory(parts) == Memory(True, 10, 5, Collections(4, 6, Latency(1)))
    assert merge_memory([]) is UNSET


@pytest.mark.requirement("http.router.performance", "http.router.performance.protocols", "http.router.performance.memory")
def test_a_router_tells_how_fast_its_ways_are(tmp_path: Path, demo: str) -> None:  # noqa: F811
    (tmp_path / "router.yaml").write_text(
        json.dumps({"servers": [{"name": "demo", "url": demo}], "gateway": {"url": demo, "auth": {"type": "none"}}})
    )
    with router(tmp_path, "--config", str(tmp_path / "router.yaml")) as window:
        for number in range(2 * ENOUGH):
            name = "demo__echo" if number % 2 else "echo"
            params = {"name": name, "arguments": {"text": "x"}, "_meta": META}
            assert "result" in window.ask({"id": number, "method": "tools/call", "params": params})

        def told() -> dict[str, Any]:
            found: dict[str, Any] = window.get("/api/v1/performance")[1]
            return found

        found = until(told, lambda found: found["latency_improvement_percent"] is not None)
        pooling = found["connection_pooling"]
        assert pooling["enabled"] and 0.5 < pooling["efficiency"] < 1 and pooling["retrieval_us"]["p50"] > 0
        assert found["memory_optimization"]["enabled"] is True
        assert found["direct"]["latency_ms"]["p50"] > 0 and found["gateway"]["latency_ms"]["p99"] > 0
        assert found["uptime_sec"] > 0
        (http,) = window.get("/api/v1/performance/protocols")[1]["protocols"]
        assert (http["protocol"], http["error_rate"]) == ("http", 0.0) and http["requests_total"] >= 2 * ENOUGH
        memory = until(
            lambda: window.get("/api/v1/performance/memory-optimization")[1], lambda found: found["gc"]["frozen_objects"]
        )
        assert memory["rss_bytes"] > 10 << 20 and memory["baseline_rss_bytes"] > 10 << 20
        assert memory["gc"]["pause_ms"]["p50"] > 0 and memory["reduction_percent"] is None


@pytest.mark.requirement("http.gateway.performance", "config.gateway.memory_optimization.enabled")
@pytest.mark.parametrize("optimizes", [True, False])
def test_a_gateway_tells_likewise(tmp_path: Path, demo: str, optimizes: bool) -> None:  # noqa: F811
    own = free_port()
    config = {
        "server": {
            "port": own,
            "tls": {"enabled": False},
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
        },
        "metrics": {"enabled": False},
        "auth": {"type": "none"},
        "servers": [{"name": "web", "url": demo, "protocol": "http"}],
        "memory_optimization": {"enabled": optimizes},
    }
    (tmp_path / "gateway.yaml").write_text(json.dumps(config))
    base = f"http://127.0.0.1:{own}"
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(tmp_path / "gateway.yaml")]) as process:
        wait_listening(process, f"{base}/healthz")
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {"text": "x"}}}
        assert "result" in ask(f"{base}/api/v1/execute", body)[1]
        found = until(
            lambda: {one["protocol"]: one for one in ask(f"{base}/api/v1/performance/protocols")[1]["protocols"]},
            lambda found: found["http"]["requests_total"],
        )
        assert found["http"]["latency_ms"]["p50"] > 0
        told = ask(f"{base}/api/v1/performance")[1]
        assert (told["connection_pooling"]["enabled"], told["memory_optimization"]["enabled"]) == (True, optimizes)
        memory = ask(f"{base}/api/v1/performance/memory-optimization")[1]
        assert bool(memory["gc"]["frozen_objects"]) is optimizes
