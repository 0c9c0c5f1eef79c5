"""Views of performance: pure functions of the Snapshot.

Source: contract http.router.performance, .protocols, .memory; http.gateway.performance.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mcpbridge.observe.performance import WINDOW_SEC, Memory, Performance
from mcpbridge.observe.snapshot import Snapshot

_NOTHING: tuple[int, Any] = (404, {"error": "this program does not measure its performance"})


def performance(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /performance."""
    found, memory = _of(snapshot)
    if found is None or memory is None:
        return _NOTHING
    pooling = found.connection_pooling
    took = pooling.retrieval_us
    return 200, {
        "connection_pooling": {
            "enabled": pooling.enabled,
            "efficiency": pooling.efficiency,
            "retrieval_us": {"p50": took.p50, "p95": took.p95},
        },
        "memory_optimization": {"enabled": memory.enabled, "savings_bytes": None, "gc_cycles": memory.gc.cycles_total},
        "direct": found.direct,
        "gateway": found.gateway,
        "latency_improvement_percent": found.latency_improvement_percent,
        "uptime_sec": snapshot.uptime_sec,
    }


def protocols(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /performance/protocols. Bytes are not counted by protocol: null."""
    found, _ = _of(snapshot)
    if found is None:
        return _NOTHING
    unmeasured = {"bytes_in": None, "bytes_out": None}
    return 200, {
        "window_sec": WINDOW_SEC,
        "protocols": [{**msgspec.structs.asdict(one), **unmeasured} for one in found.protocols],
    }


def memory(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /performance/memory-optimization. There is no pool of objects, and no stored benchmark to compare with: null."""
    _, found = _of(snapshot)
    if found is None:
        return _NOTHING
    pauses = found.gc.pause_ms
    return 200, {
        "enabled": found.enabled,
        "rss_bytes": found.rss_bytes,
        "baseline_rss_bytes": found.baseline_rss_bytes,
        "object_pool": {"buffers": None, "reused_total": None, "allocated_total": None, "savings_bytes": None},
        "gc": {
            "cycles_total": found.gc.cycles_total,
            "frozen_objects": found.gc.frozen_objects,
            "pause_ms": {"p50": pauses.p50, "p95": pauses.p95},
        },
        "reduction_percent": None,
    }


def _of(snapshot: Snapshot) -> tuple[Performance | None, Memory | None]:
    found, memory = snapshot.performance, snapshot.memory
    return (
        None if isinstance(found, msgspec.UnsetType) else found,
        None if isinstance(memory, msgspec.UnsetType) else memory,
    )
