"""Views of balancing: pure functions of the Snapshot.

Source: contract http.gateway.health.load-balancer, http.gateway.lb.*.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from mcpbridge.observe.balancing import LoadBalancer
from mcpbridge.observe.snapshot import Snapshot, State

_NOTHING: tuple[int, Any] = (404, {"error": "this program balances nothing"})


def health(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/load-balancer: 503 when there are backends and none may be given a call."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    state: State = "down" if not found.healthy else "degraded" if found.panic else "ok"
    reasons = [f"{server}: too few healthy backends, so all are used" for server in found.panicking]
    if not found.healthy:
        reasons = ["no backend is eligible"]
    return 503 if state == "down" else 200, {
        "status": state,
        "healthy": found.healthy,
        "strategy": found.strategy,
        "health_aware": found.health_aware,
        "eligible": found.eligible,
        "total": found.total,
        "panic": found.panic,
        "reasons": reasons,
    }


def status(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /load-balancer/status."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    names = ("healthy", "strategy", "endpoint_strategy", "health_aware", "fallback_enabled", "panic", "since", "requests_total")
    weight, share = ("configured_weight", "current_weight"), ("target_share", "actual_share")
    members = ("protocol", *weight, *share, "requests_total", "healthy", "eligible")
    return 200, {
        **{name: getattr(found, name) for name in names},
        "protocols": [{name: getattr(one, name) for name in members} for one in found.protocols],
    }


def weights(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /load-balancer/weights."""
    found = _of(snapshot)
    return _NOTHING if found is None else (200, weights_of(found))


def weights_of(found: LoadBalancer) -> dict[str, Any]:
    """The view of one part, which a PUT answers with too."""
    names = ("weights", "defaults", "factors", "endpoints", "changed_at", "changed_by")
    return {name: getattr(found, name) for name in names}


def performance(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /load-balancer/performance."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    names = ("window_sec", "decisions_total", "decision_us", "failovers_total", "retries_total", "imbalance")
    members = ("protocol", "requests_total", "latency_ms", "error_rate")
    return 200, {
        **{name: getattr(found, name) for name in names},
        "protocols": [{name: getattr(one, name) for name in members} for one in found.protocols],
    }


def redacted(snapshot: Snapshot) -> Snapshot:
    """Without the name of who changed weights."""
    found = _of(snapshot)
    return snapshot if found is None else replace(snapshot, load_balancer=replace(found, changed_by=None))


def _of(snapshot: Snapshot) -> LoadBalancer | None:
    found = snapshot.load_balancer
    return None if isinstance(found, msgspec.UnsetType) else found
