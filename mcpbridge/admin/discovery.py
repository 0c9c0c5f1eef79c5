"""The view of discovery: which provider finds what, and what keeps it from more.

Source: contract http.gateway.health.discovery.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from mcpbridge.observe.findings import Discovered
from mcpbridge.observe.snapshot import Snapshot


def health(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/discovery: 503 when no provider has anything to offer, 404 from a program that has none."""
    found = snapshot.discovery
    if isinstance(found, msgspec.UnsetType):
        return 404, {"error": "this program has its servers from its configuration only"}
    return 200 if found.healthy else 503, found


def redacted(snapshot: Snapshot) -> Snapshot:
    """Without the texts of faults, which name objects and addresses."""
    found = snapshot.discovery
    if isinstance(found, msgspec.UnsetType):
        return snapshot
    providers = tuple(replace(one, last_error=one.last_error and "[hidden]") for one in found.providers)
    return replace(snapshot, discovery=Discovered(found.status, found.healthy, found.refresh_rate_ms, providers))
