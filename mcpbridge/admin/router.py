"""The views that only a router has: its two ways, and its direct servers. Pure functions of the Snapshot.

Source: contract http.router.health, http.router.health.direct-clients.
"""

from __future__ import annotations

from typing import Any

from mcpbridge.config.sections import GATEWAY
from mcpbridge.observe.snapshot import BackendStatus, Snapshot, State, combine, is_healthy


def health(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health of a router: 200 while it can answer at all, which it does without any server."""
    gateways, direct = _parts(snapshot)
    mode = "hybrid" if gateways and direct else "gateway" if gateways else "direct"
    return 503 if snapshot.status in ("down", "draining") else 200, {
        "status": snapshot.status,
        "healthy": snapshot.healthy,
        "mode": mode,
        "gateway": {
            "configured": bool(gateways),
            "connected": any(is_healthy(one.state) for one in gateways),
            "url": gateways[0].address if gateways else None,
        },
        "direct_clients": {"total": len(direct), "healthy": sum(is_healthy(one.state) for one in direct)},
    }


def direct_clients(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/direct-clients: none is healthy, all of them down is not."""
    _, direct = _parts(snapshot)
    state: State = combine(one.state for one in direct) if direct else "ok"
    is_down = bool(direct) and all(one.state == "down" for one in direct)
    return 503 if is_down else 200, {
        "status": state,
        "healthy": not is_down,
        "enabled": snapshot.role == "router",
        "clients": [
            {
                "server": one.server,
                "protocol": one.protocol,
                "healthy": is_healthy(one.state),
                "state": one.state,
                "connections": one.connections,
                "in_flight": one.in_flight,
                "latency_ms": one.latency_ms,
                "last_error": one.reason,
            }
            for one in direct
        ],
    }


def _parts(snapshot: Snapshot) -> tuple[list[BackendStatus], list[BackendStatus]]:
    """The gateway's endpoints and those of direct servers."""
    gateways = [one for one in snapshot.backends if one.server == GATEWAY]
    return gateways, [one for one in snapshot.backends if one.server != GATEWAY]
