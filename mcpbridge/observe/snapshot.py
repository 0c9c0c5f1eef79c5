"""Snapshot: the single picture of a running bridge, document ``mcpbridge.status/v1``.

    Bridge.snapshot(now) -> Snapshot -> views (health paths, status), the dashboard, ``status --json``
    worker 1 Snapshot \\
    worker 2 Snapshot  > merge -> Snapshot

Frozen and JSON-able. A value that was not measured is None (``null``), never a constant; a part that this program does not
fill is not in the document. Unknown members of a newer document are ignored. Durations are floats in milliseconds with the
suffix ``_ms``, times RFC 3339 UTC with milliseconds, fractions 0..1.

Source: contract sections 2.0-2.1; architecture section 10.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import msgspec

from mcpbridge.observe.balancing import LoadBalancer, merge_load_balancers
from mcpbridge.observe.findings import Conversions, Detections, Discovered
from mcpbridge.observe.foresight import Foresight
from mcpbridge.observe.performance import Memory, Performance, merge_memory, merge_performance
from mcpbridge.observe.pools import PoolStatus, add_up
from mcpbridge.observe.sketch import Latency as Latency
from mcpbridge.observe.sketch import largest

SCHEMA: Literal["mcpbridge.status/v1"] = "mcpbridge.status/v1"
PROTOCOL_NAMES = ("stdio", "websocket", "http", "sse", "tcp_binary")
"""The five protocols in the order every document lists them."""
MAX_EVENTS = 200

State = Literal["ok", "degraded", "down", "unknown", "disabled", "draining", "starting"]
Breaker = Literal["closed", "half_open", "open"]

T = TypeVar("T")
_SERVING = frozenset({"ok", "degraded"})
_WORST_FIRST: tuple[State, ...] = ("down", "draining", "starting")
_BREAKERS: tuple[Breaker, ...] = ("closed", "half_open", "open")


class Frontend(msgspec.Struct, frozen=True):
    """One face towards clients. ``address`` is what it listens on, None when it does not or the reader may not know."""

    listening: bool
    address: str | None = None
    connections: int = 0


class Tally(msgspec.Struct, frozen=True):
    """How many backends are in which state. Disabled ones are not counted."""

    total: int = 0
    healthy: int = 0
    degraded: int = 0
    down: int = 0
    unknown: int = 0


class ProtocolStatus(msgspec.Struct, frozen=True):
    """One of the five protocols: its frontend, its backends and what was measured on it."""

    name: str
    enabled: bool
    healthy: bool
    state: State
    frontend: Frontend
    reason: str | None = None
    backends: Tally = Tally()
    requests_per_sec: float | None = None
    error_rate: float | None = None
    latency_ms: Latency = Latency()
    breaker: Breaker | None = None
    last_check: str | None = None


class BackendStatus(msgspec.Struct, frozen=True):
    """One endpoint of one server. ``reason`` is the cause of a state other than ok, for people."""

    server: str
    endpoint: str
    protocol: str
    state: State
    namespace: str = "default"
    address: str | None = None
    source: str = "static"
    reason: str | None = None
    era: Literal["modern", "legacy"] | None = None
    version: str | None = None
    weight: float = 1.0
    in_flight: int = 0
    connections: int = 0
    breaker: Breaker | None = None
    health_score: float | None = None
    consecutive_failures: int = 0
    latency_ms: Latency = Latency()
    error_rate: float | None = None
    last_check: str | None = None
    since: str | None = None


class Sessions(msgspec.Struct, frozen=True):
    """Open sessions of legacy clients and the health of their store."""

    store: str
    active: int
    store_healthy: bool


class Tls(msgspec.Struct, frozen=True):
    """``not_after`` is the end of the loaded certificate; None without TLS."""

    not_after: str | None = None


class ConfigStatus(msgspec.Struct, frozen=True):
    """Where the configuration came from; ``path`` is None for the embedded default."""

    path: str | None = None
    loaded_at: str | None = None
    last_reload_ok: bool | None = None


class Event(msgspec.Struct, frozen=True):
    """One entry of the event ring."""

    time: str
    level: str
    event: str
    message: str
    protocol: str | None = None
    server: str | None = None


class Client(msgspec.Struct, frozen=True):
    """Whom a router serves, in its client's own words."""

    name: str
    version: str
    era: Literal["modern", "legacy"]


class Snapshot(msgspec.Struct, frozen=True):
    """The whole document. ``sequence`` rises by one per snapshot of a process; ``instance`` names the process."""

    role: Literal["gateway", "router"]
    sequence: int
    time: str
    instance: str
    version: str
    uptime_sec: float
    status: State
    healthy: bool
    protocols: tuple[ProtocolStatus, ...]
    backends: tuple[BackendStatus, ...]
    sessions: Sessions
    reasons: tuple[str, ...] = ()
    tls: Tls = Tls()
    config: ConfigStatus = ConfigStatus()
    detection: Detections | msgspec.UnsetType = msgspec.UNSET
    conversions: Conversions | msgspec.UnsetType = msgspec.UNSET
    discovery: Discovered | msgspec.UnsetType = msgspec.UNSET
    health_monitoring: Foresight | msgspec.UnsetType = msgspec.UNSET
    load_balancer: LoadBalancer | msgspec.UnsetType = msgspec.UNSET
    pools: tuple[PoolStatus, ...] | msgspec.UnsetType = msgspec.UNSET
    performance: Performance | msgspec.UnsetType = msgspec.UNSET
    memory: Memory | msgspec.UnsetType = msgspec.UNSET
    client: Client | msgspec.UnsetType = msgspec.UNSET
    pid: int | msgspec.UnsetType = msgspec.UNSET
    events: tuple[Event, ...] = ()
    schema: Literal["mcpbridge.status/v1"] = SCHEMA


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    """Compact JSON without a trailing newline."""
    return _encoder.encode(snapshot)


def decode(raw: bytes) -> Snapshot:
    """The snapshot of a JSON document. Raises msgspec.DecodeError (ValidationError for another schema or shape)."""
    return _decoder.decode(raw)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the document. Source: contract http.status.schema."""
    return msgspec.json.schema(Snapshot)


def part(value: T | msgspec.UnsetType) -> T | None:
    """A part of the document that not every program has."""
    return None if isinstance(value, msgspec.UnsetType) else value


def timestamp(seconds: float) -> str:
    """RFC 3339 UTC with milliseconds of a Unix time in seconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_healthy(state: State) -> bool:
    """True only for ok and degraded. Source: contract section 2.0."""
    return state in _SERVING


def tally(backends: Iterable[BackendStatus]) -> Tally:
    """Counts by state. Disabled backends are left out; starting and draining ones count as unknown."""
    counts = {"ok": 0, "degraded": 0, "down": 0, "unknown": 0}
    for backend in backends:
        if backend.state != "disabled":
            counts[backend.state if backend.state in counts else "unknown"] += 1
    return Tally(sum(counts.values()), counts["ok"], counts["degraded"], counts["down"], counts["unknown"])


def combine(states: Iterable[State]) -> State:
    """The state of one thing that several workers see: agreement, else degraded while any of them can use it.

    A worker that switched it off or has not looked yet has no say while another one does.
    """
    seen = set(states)
    known = seen - {"disabled", "unknown"}
    if not known:
        return "unknown" if "unknown" in seen or not seen else "disabled"
    if len(known) == 1:
        return known.pop()
    if known & _SERVING:
        return "degraded"
    return next(state for state in _WORST_FIRST if state in known)


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """One picture of several workers of one program.

    Counts are summed, a backend that several workers use is one backend, times are the latest, error rates of a protocol are
    weighted by its requests. Percentiles cannot be added: the largest one is given, which bounds the true value from above.
    ``sequence`` is the sum, so that two merges with the same one agree; who publishes merges counts its own.
    ``role``, ``instance`` and ``version`` are the first worker's. Raises ValueError without snapshots.

    Source: architecture section 7 (a worker is a replica).
    """
    if not snapshots:
        raise ValueError("nothing to merge")
    first = snapshots[0]
    if len(snapshots) == 1:
        return first
    by_endpoint: dict[tuple[str, str, str], list[BackendStatus]] = {}
    by_protocol: dict[str, list[ProtocolStatus]] = {}
    for snapshot in snapshots:
        for backend in snapshot.backends:
            by_endpoint.setdefault((backend.namespace, backend.server, backend.endpoint), []).append(backend)
        for protocol in snapshot.protocols:
            by_protocol.setdefault(protocol.name, []).append(protocol)
    backends = tuple(_merge_backend(parts) for parts in by_endpoint.values())
    names = sorted(by_protocol, key=lambda name: PROTOCOL_NAMES.index(name) if name in PROTOCOL_NAMES else len(PROTOCOL_NAMES))
    status = combine(s.status for s in snapshots)
    events = sorted((event for s in snapshots for event in s.events), key=lambda event: event.time)
    return Snapshot(
        role=first.role,
        sequence=sum(s.sequence for s in snapshots),
        time=max(s.time for s in snapshots),
        instance=first.instance,
        version=first.version,
        uptime_sec=max(s.uptime_sec for s in snapshots),
        status=status,
        healthy=is_healthy(status),
        protocols=tuple(_merge_protocol(by_protocol[name], [b for b in backends if b.protocol == name]) for name in names),
        backends=backends,
        sessions=_merge_sessions([s.sessions for s in snapshots]),
        reasons=tuple(dict.fromkeys(reason for s in snapshots for reason in s.reasons)),
        tls=Tls(min((s.tls.not_after for s in snapshots if s.tls.not_after), default=None)),
        config=ConfigStatus(
            next((s.config.path for s in snapshots if s.config.path), None),
            _latest(s.config.loaded_at for s in snapshots),
            _all(s.config.last_reload_ok for s in snapshots),
        ),
        detection=first.detection,  # each worker has a memory of its own
        conversions=first.conversions,
        discovery=first.discovery,
        health_monitoring=first.health_monitoring,
        pools=_merge_pools([s.pools for s in snapshots if not isinstance(s.pools, msgspec.UnsetType)]),
        performance=merge_performance([s.performance for s in snapshots]),
        memory=merge_memory([s.memory for s in snapshots]),
        load_balancer=merge_load_balancers(
            [s.load_balancer for s in snapshots if not isinstance(s.load_balancer, msgspec.UnsetType)]
        ),
        events=tuple(events[-MAX_EVENTS:]),
    )


def _merge_pools(parts: list[tuple[PoolStatus, ...]]) -> tuple[PoolStatus, ...] | msgspec.UnsetType:
    return add_up(pool for part in parts for pool in part) if parts else msgspec.UNSET


def _merge_protocol(parts: list[ProtocolStatus], backends: list[BackendStatus]) -> ProtocolStatus:
    state = combine(part.state for part in parts)
    rated = [part for part in parts if part.requests_per_sec is not None]
    rate = sum(part.requests_per_sec or 0.0 for part in rated)
    failing = sum((part.requests_per_sec or 0.0) * (part.error_rate or 0.0) for part in rated)
    return ProtocolStatus(
        name=parts[0].name,
        enabled=any(part.enabled for part in parts),
        healthy=is_healthy(state),
        state=state,
        frontend=Frontend(
            any(part.frontend.listening for part in parts),
            next((part.frontend.address for part in parts if part.frontend.address), None),
            sum(part.frontend.connections for part in parts),
        ),
        reason=None if state == "ok" else next((part.reason for part in parts if part.reason), None),
        backends=tally(backends),
        requests_per_sec=rate if rated else None,
        error_rate=failing / rate if rate else _largest(part.error_rate for part in parts),
        latency_ms=largest([part.latency_ms for part in parts]),
        breaker=worst_breaker(part.breaker for part in parts),
        last_check=_latest(part.last_check for part in parts),
    )


def _merge_backend(parts: list[BackendStatus]) -> BackendStatus:
    latest = max(parts, key=lambda part: part.last_check or "")
    state = combine(part.state for part in parts)
    scores = [part.health_score for part in parts if part.health_score is not None]
    return msgspec.structs.replace(
        latest,
        state=state,
        reason=None if state == "ok" else latest.reason or next((part.reason for part in parts if part.reason), None),
        era=latest.era or next((part.era for part in parts if part.era), None),
        version=latest.version or next((part.version for part in parts if part.version), None),
        in_flight=sum(part.in_flight for part in parts),
        connections=sum(part.connections for part in parts),
        breaker=worst_breaker(part.breaker for part in parts),
        health_score=sum(scores) / len(scores) if scores else None,
        consecutive_failures=max(part.consecutive_failures for part in parts),
        latency_ms=largest([part.latency_ms for part in parts]),
        error_rate=_largest(part.error_rate for part in parts),
        since=_latest(part.since for part in parts),
    )


def _merge_sessions(parts: list[Sessions]) -> Sessions:
    # Every process counts its own memory store; a store that the processes share is counted once.
    count = sum if parts[0].store == "memory" else max
    return Sessions(parts[0].store, count(part.active for part in parts), all(part.store_healthy for part in parts))


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _latest(values: Iterable[str | None]) -> str | None:
    # All stamps have one format and one zone, so their text sorts as their time.
    return max((value for value in values if value is not None), default=None)


def _all(values: Iterable[bool | None]) -> bool | None:
    known = [value for value in values if value is not None]
    return all(known) if known else None


def worst_breaker(values: Iterable[Breaker | None]) -> Breaker | None:
    """The state of several breakers as one: the one that lets through least; None without any."""
    return max((value for value in values if value is not None), key=_BREAKERS.index, default=None)
