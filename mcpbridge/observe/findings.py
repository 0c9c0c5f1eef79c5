"""Detection and conversions as parts of the Snapshot.

Source: contract http.gateway.detect.get, http.router.cache, http.router.detect.failures, http.gateway.conversions.failures,
http.router.health.protocol-detection.
"""

from __future__ import annotations

import msgspec


class Ratio(msgspec.Struct, frozen=True):
    """Verdicts confirmed by a session, of all that were put to the test; ``ratio`` None before the first."""

    confirmed: int = 0
    total: int = 0
    ratio: float | None = None


class Found(msgspec.Struct, frozen=True):
    """A verdict that is still remembered."""

    target: str
    protocol: str | None
    era: str | None
    result: str
    confidence: float
    duration_ms: float
    cached: bool
    age_ms: float
    expires_in_ms: float
    hits: int = 0


class Tries(msgspec.Struct, frozen=True):
    """One probe of a failed detection."""

    protocol: str
    outcome: str
    duration_ms: float


class Failed(msgspec.Struct, frozen=True):
    """A detection without a verdict."""

    time: str
    target: str
    reason: str
    tried: tuple[Tries, ...] = ()


class Detections(msgspec.Struct, frozen=True):
    """What detection knows and did. ``examined`` and ``failed`` since the start; ``accuracy_target`` None: none is set."""

    enabled: bool
    timeout_ms: float
    cache_ttl_ms: float
    fallback_protocol: str
    accuracy: Ratio = Ratio()
    accuracy_target: float | None = None
    results: tuple[Found, ...] = ()
    hits: int = 0
    misses: int = 0
    examined: int = 0
    failed: int = 0
    failures: tuple[Failed, ...] = ()
    p50_ms: float | None = None
    p95_ms: float | None = None

    @property
    def is_degraded(self) -> bool:
        """Whether fewer verdicts proved right than are wanted."""
        ratio = self.accuracy.ratio
        return ratio is not None and self.accuracy_target is not None and ratio < self.accuracy_target


class Unconverted(msgspec.Struct, frozen=True):
    """A call between two protocols that failed at its server."""

    time: str
    source: str = msgspec.field(name="from")
    to: str = ""
    method: str = ""
    reason: str = ""
    backend: str = ""
    request_id: str | None = None


class Conversions(msgspec.Struct, frozen=True):
    """Calls whose frontend and backend protocols differ; the newest failures first, ``total`` since the start."""

    total: int = 0
    failures: tuple[Unconverted, ...] = ()


class DiscoverySource(msgspec.Struct, frozen=True):
    """One provider of servers. ``last_error`` also names what it left out, each with its cause."""

    name: str
    enabled: bool
    healthy: bool
    state: str
    endpoints: int
    last_success: str | None
    last_error: str | None
    age_ms: float | None


class Discovered(msgspec.Struct, frozen=True):
    """All providers: what one of them lost is degraded, since the servers of the others are there."""

    status: str
    healthy: bool
    refresh_rate_ms: float
    providers: tuple[DiscoverySource, ...]
