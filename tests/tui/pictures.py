"""Two gateways to look at: one well, one with a slow, two dead and one starting backend."""

from __future__ import annotations

from mcpbridge.observe.balancing import Factors, LoadBalancer, ProtocolShare
from mcpbridge.observe.pools import PoolStatus
from mcpbridge.observe.snapshot import (
    BackendStatus,
    Event,
    Frontend,
    Latency,
    ProtocolStatus,
    Sessions,
    Snapshot,
    State,
    tally,
)


def protocol(name: str, state: State, backends: list[BackendStatus], **more: object) -> ProtocolStatus:
    enabled = state != "disabled"
    address = {"stdio": "/run/mcpbridge/mcp.sock", "http": "127.0.0.1:8443"}.get(name)
    fields: dict[str, object] = {
        "name": name,
        "enabled": enabled,
        "healthy": state in ("ok", "degraded"),
        "state": state,
        "frontend": Frontend(enabled, address if enabled else None, 3 if enabled else 0),
        "backends": tally(b for b in backends if b.protocol == name),
    }
    return ProtocolStatus(**{**fields, **more})  # type: ignore[arg-type]


def picture(status: State, protocols: list[ProtocolStatus], backends: list[BackendStatus], **more: object) -> Snapshot:
    fields: dict[str, object] = {
        "role": "gateway",
        "sequence": 1042,
        "time": "2026-11-23T14:02:30.000Z",
        "instance": "gw-0",
        "version": "1.0.0",
        "uptime_sec": 532_800.0,
        "status": status,
        "healthy": status in ("ok", "degraded"),
        "protocols": tuple(protocols),
        "backends": tuple(backends),
        "sessions": Sessions("memory", 212, True),
    }
    return Snapshot(**{**fields, **more})  # type: ignore[arg-type]


def balancer(backends: list[BackendStatus], **shares: ProtocolShare) -> LoadBalancer:
    """Weights of the guide; ``shares`` by protocol."""
    weights = {"stdio": 1.5, "websocket": 1.2, "http": 1.0, "sse": 0.8, "tcp_binary": 1.3}
    rows = tuple(shares.get(name, ProtocolShare(name, weight, weight, False, 0, 0)) for name, weight in weights.items())
    return LoadBalancer(
        healthy=True,
        strategy="cross_protocol",
        endpoint_strategy="cross_protocol_least_conn",
        health_aware=True,
        fallback_enabled=True,
        panic=False,
        since="2026-11-17T10:02:30.000Z",
        requests_total=1_284_000,
        eligible=sum(row.eligible for row in rows),
        total=len(backends),
        protocols=rows,
        weights=weights,
        defaults=weights,
        factors={name: Factors(row.current_weight / weights[name], 1.0, 1.0) for name, row in zip(weights, rows, strict=True)},
        endpoints={backend.endpoint: backend.weight for backend in backends},
        window_sec=300.0,
        requests_window=62_210,
        decisions_total=1_284_000,
        failovers_total=12,
        retries_total=31,
    )


def make_healthy() -> Snapshot:
    backends = [
        BackendStatus(
            "everything",
            "everything/0",
            "stdio",
            "ok",
            era="legacy",
            version="2025-11-25",
            in_flight=2,
            breaker="closed",
            health_score=1.0,
            latency_ms=Latency(1.2, 3.1, 9.8),
            error_rate=0.0,
            last_check="2026-11-23T14:02:25.000Z",
            since="2026-11-23T08:02:30.000Z",
        ),
        BackendStatus(
            "filesystem",
            "filesystem/0",
            "stdio",
            "ok",
            era="legacy",
            version="2025-11-25",
            breaker="closed",
            health_score=0.98,
            latency_ms=Latency(0.8, 2.4, 7.7),
            error_rate=0.0,
            last_check="2026-11-23T14:02:25.000Z",
            since="2026-11-23T08:02:30.000Z",
        ),
        BackendStatus(
            "weather",
            "weather/0",
            "http",
            "ok",
            address="http://10.0.4.9:8081/mcp",
            era="modern",
            version="2026-07-28",
            in_flight=4,
            breaker="closed",
            health_score=1.0,
            latency_ms=Latency(6.1, 12.4, 30.7),
            error_rate=0.0004,
            last_check="2026-11-23T14:02:26.000Z",
            since="2026-11-23T13:58:18.000Z",
        ),
    ]
    protocols = [
        protocol("stdio", "ok", backends, requests_per_sec=395.5, error_rate=0.0, latency_ms=Latency(1.2, 3.1, 9.8)),
        protocol("websocket", "disabled", backends),
        protocol("http", "ok", backends, requests_per_sec=888.6, error_rate=0.0004, latency_ms=Latency(6.1, 12.4, 30.7)),
        protocol("sse", "disabled", backends),
        protocol("tcp_binary", "disabled", backends),
    ]
    events = (
        Event("2026-11-23T13:58:18.000Z", "info", "backend_up", "answers again, 2 of 2 checks", "http", "weather"),
        Event("2026-11-23T14:01:02.000Z", "info", "config_reloaded", "configuration loaded"),
    )
    shares = {
        "stdio": ProtocolShare("stdio", 1.5, 1.5, True, 2, 2, 700_000, 19_000, 0.6, 0.602, Latency(1.2, 3.1, 9.8), 0.0),
        "http": ProtocolShare("http", 1.0, 1.0, True, 1, 1, 584_000, 43_210, 0.4, 0.398, Latency(6.1, 12.4, 30.7), 0.0004),
    }
    pools = (
        PoolStatus("everything", "stdio", 2, 2, 0, 0, 20, hits=400, misses=2, efficiency=0.995025),
        PoolStatus("weather", "http", 9, 4, 5, 0, 100, 2, 9000, 12, 0.998669, Latency(1.1, 5.8, 9.0)),
    )
    return picture("ok", protocols, backends, events=events, load_balancer=balancer(backends, **shares), pools=pools)


def make_outage() -> Snapshot:
    base = make_healthy()
    backends = [
        *base.backends,
        BackendStatus(
            "api",
            "api/1",
            "http",
            "degraded",
            address="http://10.0.4.17:9000/mcp",
            reason="answers slowly: p95 880 ms",
            era="modern",
            version="2026-07-28",
            in_flight=38,
            breaker="half_open",
            health_score=0.41,
            consecutive_failures=2,
            latency_ms=Latency(310.0, 880.0, 1410.0),
            error_rate=0.016,
            last_check="2026-11-23T14:02:27.000Z",
            since="2026-11-23T14:00:11.000Z",
        ),
        BackendStatus(
            "events",
            "events/0",
            "sse",
            "down",
            address="http://10.0.7.2:8080/sse",
            reason="connection refused",
            breaker="open",
            health_score=0.0,
            consecutive_failures=3,
            last_check="2026-11-23T14:02:28.000Z",
            since="2026-11-23T13:58:18.000Z",
        ),
        BackendStatus(
            "git",
            "git/0",
            "stdio",
            "down",
            reason="exited with code 1: fatal: not a git repository: '/srv/repo'",
            breaker="open",
            consecutive_failures=7,
            since="2026-11-23T14:02:19.000Z",
        ),
        BackendStatus("memory", "memory/0", "stdio", "starting", namespace="team-a", since="2026-11-23T14:02:28.000Z"),
    ]
    protocols = [
        protocol(
            "stdio",
            "degraded",
            backends,
            reason="git: server exited",
            requests_per_sec=395.5,
            error_rate=0.0021,
            latency_ms=Latency(1.2, 3.1, 9.8),
        ),
        protocol("websocket", "ok", backends, requests_per_sec=0.0, error_rate=None),
        protocol(
            "http",
            "degraded",
            backends,
            reason="api/1 is slow",
            requests_per_sec=155.4,
            error_rate=0.016,
            latency_ms=Latency(31.0, 88.0, 410.0),
        ),
        protocol("sse", "down", backends, reason="no healthy backend", requests_per_sec=0.0, latency_ms=Latency()),
        protocol("tcp_binary", "disabled", backends),
    ]
    events = (
        *base.events,
        Event("2026-11-23T14:01:40.000Z", "warn", "breaker", "breaker closed -> open after 3 failures", "sse", "events"),
        Event("2026-11-23T14:02:11.000Z", "warn", "breaker", "breaker closed -> half open", "http", "api"),
        Event(
            "2026-11-23T14:02:19.000Z",
            "error",
            "server_exited",
            "exited with code 1: fatal: not a git repository",
            "stdio",
            "git",
        ),
    )
    reasons = ("sse: no healthy backend", "stdio: git/0 down")
    shares = {
        "stdio": ProtocolShare("stdio", 1.5, 1.0, True, 2, 4, 700_000, 19_000, 0.625, 0.71, Latency(1.2, 3.1, 9.8), 0.0021),
        "http": ProtocolShare("http", 1.0, 0.6, True, 2, 2, 584_000, 43_210, 0.375, 0.29, Latency(31.0, 88.0, 410.0), 0.016),
        "sse": ProtocolShare("sse", 0.8, 0.08, False, 0, 1),
    }
    pools = (
        PoolStatus("everything", "stdio", 2, 2, 0, 0, 20, hits=400, misses=2, efficiency=0.995025),
        PoolStatus("api", "http", 100, 100, 0, 4, 100, 2, 9000, 112, 0.987709, Latency(1.1, 5.8, 9.0)),
        PoolStatus("weather", "http", 95, 92, 3, 0, 100, 2, 90, 95, 0.486486),
    )
    more = {"load_balancer": balancer(backends, **shares), "pools": pools}
    return picture("degraded", protocols, backends, events=events, reasons=reasons, **more)
