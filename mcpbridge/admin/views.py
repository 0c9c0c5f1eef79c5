"""Every health and status path: one row, a pure function of the Snapshot.

    path -> View -> (HTTP status, JSON body)

Two reads of one Snapshot agree in every field they share. A reader who may not know addresses, commands and names of users gets
the same views of ``redacted(snapshot)``.

Source: contract http.views, http.common.health-status, http.common.access.read, section 2.2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import asdict, replace

from mcpbridge.admin import balancing, discovery, foresight, performance, protocols, router
from mcpbridge.errors import FAULTS
from mcpbridge.observe.snapshot import (
    PROTOCOL_NAMES,
    BackendStatus,
    ConfigStatus,
    Frontend,
    ProtocolStatus,
    Snapshot,
    State,
    is_healthy,
)

API_PREFIX = "/api/v1"
READINESS = ("/readyz", "/ready", "/health")  # what load balancers ask, and answers other than 2xx while we drain

_NOT_SERVING: frozenset[State] = frozenset({"down", "starting", "draining"})
_NOT_READY: frozenset[State] = frozenset({"starting", "draining"})
_FAULT_TEXTS = sorted({fault.text for fault in FAULTS.values()}, key=len, reverse=True)
_PLACE = re.compile(r"[^\s\"'(),;]*(?:[/\\@]|\d+\.\d+\.\d+|[A-Za-z0-9\]]:\d)[^\s\"'(),;]*")
_KIND = re.compile(rf"(?:^|: )(?:{'|'.join(map(re.escape, _FAULT_TEXTS))})(?=:|$)")
_HIDDEN = "[hidden]"


class View(NamedTuple):
    """One path. ``render`` makes status and body; ``is_open``: answered without a token whatever ``admin.read_access`` says."""

    render: Callable[[Snapshot], tuple[int, Any]]
    is_open: bool = False


def views(api_prefix: str = API_PREFIX, also: Mapping[str, str] | None = None) -> dict[str, View]:
    """The table: path -> View. Status paths move with ``api_prefix``. ``also``: further paths -> names below /health."""
    table = {
        "/health": View(lambda one: router.health(one) if one.role == "router" else _health(one), is_open=True),
        "/health/direct-clients": View(router.direct_clients),
        "/healthz": View(lambda _snapshot: (200, {"alive": True}), is_open=True),
        "/readyz": View(_ready, is_open=True),
        "/ready": View(_ready, is_open=True),
        "/health/protocols": View(_protocols),
        "/health/protocol-detection": View(protocols.health),
        "/health/discovery": View(discovery.health),
        f"{api_prefix}/status": View(lambda snapshot: (200, snapshot)),
        f"{api_prefix}/protocols/detect": View(protocols.detect),
        f"{api_prefix}/protocols/detect/failures": View(protocols.detect_failures),
        f"{api_prefix}/protocols/cache": View(protocols.cache),
        f"{api_prefix}/protocols/conversions/failures": View(protocols.conversion_failures),
        "/health/load-balancer": View(balancing.health),
        f"{api_prefix}/load-balancer/status": View(balancing.status),
        f"{api_prefix}/load-balancer/weights": View(balancing.weights),
        f"{api_prefix}/load-balancer/performance": View(balancing.performance),
        f"{api_prefix}/performance": View(performance.performance),
        f"{api_prefix}/performance/protocols": View(performance.protocols),
        f"{api_prefix}/performance/memory-optimization": View(performance.memory),
        f"{api_prefix}/health/anomalies": View(foresight.anomalies),
        f"{api_prefix}/health/ml-model/status": View(foresight.model),
        f"{api_prefix}/health/prediction-accuracy": View(foresight.accuracy),
    }
    for name in PROTOCOL_NAMES:
        table[f"/health/{name}"] = View(_protocol_view(name))
    for path, name in {"/health/ws": "websocket", **(also or {})}.items():
        table[path] = table[f"/health/{name}"]
    return table


def body(value: Any) -> bytes:
    """One JSON object with a trailing newline. Source: contract http.common.json."""
    return msgspec.json.encode(value) + b"\n"


def redacted(snapshot: Snapshot) -> Snapshot:
    """What anybody may know: no addresses, no commands, no paths, no texts that may hold one."""
    return replace(
        discovery.redacted(balancing.redacted(protocols.redacted(snapshot))),
        protocols=tuple(
            replace(part, reason=_without_places(part.reason), frontend=replace(part.frontend, address=None))
            for part in snapshot.protocols
        ),
        backends=tuple(replace(part, address=None, reason=_cause(part)) for part in snapshot.backends),
        reasons=tuple(_without_places(reason) or "" for reason in snapshot.reasons),
        config=ConfigStatus(None, snapshot.config.loaded_at, snapshot.config.last_reload_ok),
        client=msgspec.UNSET,
        pid=msgspec.UNSET,
        events=tuple(replace(event, message=event.event) for event in snapshot.events),
    )


def _without_places(text: str | None) -> str | None:
    """A sentence of ours, up to the kind of a failure: its detail may quote the server. What looks like an address or a path
    is blanked."""
    if text is None:
        return None
    kind = _KIND.search(text)
    return _PLACE.sub(_HIDDEN, text[: kind.end() if kind else 500])


def _cause(backend: BackendStatus) -> str | None:
    """The kind of a backend's failure: its detail may quote a command, an address or the server itself."""
    reason = backend.reason or ""
    return next((text for text in _FAULT_TEXTS if reason.startswith(text)), None)


def _health(snapshot: Snapshot) -> tuple[int, Any]:
    backends = [backend for backend in snapshot.backends if backend.state != "disabled"]
    return _status_code(snapshot.status), {
        "status": snapshot.status,
        "healthy": snapshot.healthy,
        "time": snapshot.time,
        "version": snapshot.version,
        "uptime_sec": snapshot.uptime_sec,
        "protocols": {part.name: part.state for part in _five(snapshot)},
        "backends": {"total": len(backends), "healthy": sum(is_healthy(backend.state) for backend in backends)},
        "session_store": {"type": snapshot.sessions.store, "healthy": snapshot.sessions.store_healthy},
        "reasons": snapshot.reasons,
    }


def _ready(snapshot: Snapshot) -> tuple[int, Any]:
    ready = is_ready(snapshot)
    return 200 if ready else 503, {"ready": ready, "reasons": [] if ready else [snapshot.status, *snapshot.reasons]}


def is_ready(snapshot: Snapshot) -> bool:
    """Whether new work may be sent here."""
    return snapshot.status not in _NOT_READY


def _protocols(snapshot: Snapshot) -> tuple[int, Any]:
    parts = _five(snapshot)
    enabled = [part.healthy for part in parts if part.enabled]
    state: State = "down" if not any(enabled) else "ok" if all(enabled) else "degraded"
    return 200 if any(enabled) else 503, {
        "status": state,
        "healthy": bool(enabled) and all(enabled),
        "protocols": parts,
    }


def _protocol_view(name: str) -> Callable[[Snapshot], tuple[int, Any]]:
    def render(snapshot: Snapshot) -> tuple[int, Any]:
        part = next(part for part in _five(snapshot) if part.name == name)
        return _status_code(part.state), {**asdict(part), "time": snapshot.time}

    return render


def _five(snapshot: Snapshot) -> list[ProtocolStatus]:
    """All five protocols in their order; one that the Snapshot does not know is not there, which is disabled."""
    known = {part.name: part for part in snapshot.protocols}
    return [known.get(name) or ProtocolStatus(name, False, False, "disabled", Frontend(False)) for name in PROTOCOL_NAMES]


def _status_code(state: State) -> int:
    return 503 if state in _NOT_SERVING else 200
