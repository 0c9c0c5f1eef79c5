"""The views of detection and conversion: pure functions of the Snapshot.

Source: contract http.gateway.detect.get, http.router.cache, http.router.detect.failures, http.gateway.conversions.failures,
http.router.health.protocol-detection.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from mcpbridge.observe.findings import Conversions, Detections
from mcpbridge.observe.snapshot import Snapshot, State

HIDDEN = "[hidden]"
_OFF = Detections(False, 0.0, 0.0, "none")


def detection_of(snapshot: Snapshot) -> Detections:
    """Its part of the picture; switched off when the program has none."""
    return _OFF if isinstance(snapshot.detection, msgspec.UnsetType) else snapshot.detection


def health(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/protocol-detection: 200 whatever it says; nobody should be restarted for it."""
    found = detection_of(snapshot)
    state: State = "disabled" if not found.enabled else "degraded" if found.is_degraded else "ok"
    return 200, {
        "status": state,
        "healthy": state != "disabled",
        "enabled": found.enabled,
        "detections": {"total": found.examined, "success": found.examined - found.failed, "failed": found.failed},
        "accuracy": found.accuracy,
        "duration_ms": {"p50": found.p50_ms, "p95": found.p95_ms},
        "cache": {"entries": len(found.results), "hits": found.hits, "misses": found.misses},
    }


def detect(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /protocols/detect: what is known; nothing is asked."""
    found = detection_of(snapshot)
    names = ("target", "protocol", "era", "result", "confidence", "duration_ms", "cached", "age_ms", "expires_in_ms")
    return 200, {
        "enabled": found.enabled,
        "timeout_ms": found.timeout_ms,
        "cache_ttl_ms": found.cache_ttl_ms,
        "fallback_protocol": found.fallback_protocol,
        "accuracy": found.accuracy,
        "results": [{name: getattr(one, name) for name in names} for one in found.results],
    }


def cache(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /protocols/cache."""
    found = detection_of(snapshot)
    names = ("target", "protocol", "era", "age_ms", "expires_in_ms", "hits")
    entries = [{name: getattr(one, name) for name in names} for one in found.results]
    return 200, {"ttl_ms": found.cache_ttl_ms, "entries": entries, "hits": found.hits, "misses": found.misses}


def detect_failures(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /protocols/detect/failures, newest first."""
    found = detection_of(snapshot)
    return 200, {"total": found.failed, "failures": found.failures}


def conversion_failures(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /protocols/conversions/failures, newest first."""
    found = snapshot.conversions
    return 200, Conversions() if isinstance(found, msgspec.UnsetType) else found


def redacted(snapshot: Snapshot) -> Snapshot:
    """Without the addresses of servers: how many and how good is no secret, where they are is."""
    found, failed = snapshot.detection, snapshot.conversions
    if not isinstance(found, msgspec.UnsetType):
        found = replace(
            found,
            results=tuple(replace(one, target=HIDDEN) for one in found.results),
            failures=tuple(replace(one, target=HIDDEN, reason=HIDDEN) for one in found.failures),
        )
    if not isinstance(failed, msgspec.UnsetType):
        failed = replace(failed, failures=tuple(replace(one, backend=HIDDEN, request_id=None) for one in failed.failures))
    return replace(snapshot, detection=found, conversions=failed)
