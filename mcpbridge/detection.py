"""Detection in a running bridge: the Detector as configured, its metrics, its part of the Snapshot, its actions of the API.

    detection = Detection(bridge.spawn, registry, role="gateway", ...)
    Reach(bridge, detector=detection.detector, ...)         servers whose address names no protocol
    App(..., actions=detection.actions())                    POST /api/v1/protocols/...

Source: contract sections 2.2-2.4 (protocols/*), 5 (``mcp_*_protocol_detection_*``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from mcpbridge.core.detect import Entry, Guard, Verdict
from mcpbridge.core.tasks import Spawn
from mcpbridge.detect.detector import MAX_TARGETS, Detector
from mcpbridge.errors import BridgeError
from mcpbridge.observe.findings import Detections, Failed, Found, Ratio, Tries
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.sketch import Window, quantile

if TYPE_CHECKING:
    from mcpbridge.admin.app import Action, Asked
    from mcpbridge.detect.line import Via


class Detection:
    """See the module. ``configured``: the addresses of the servers, read when an API caller asks, ``auto`` of those without a
    protocol; ``allowed``: further targets; ``loopback``: whether those of this machine may be probed, too."""

    def __init__(
        self,
        spawn: Spawn,
        registry: Registry,
        *,
        role: Literal["router", "gateway"],
        enabled: bool,
        timeout: float,
        cache: float,
        fallback: str,
        configured: Callable[[], Iterable[str]],
        auto: Callable[[], Iterable[str]],
        allowed: Iterable[str] = (),
        loopback: bool = False,
        accuracy_target: float | None = None,
        context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        via: Via | None = None,
    ) -> None:
        self.enabled = enabled
        self.fallback = fallback
        self.detector = Detector(
            spawn,
            budget=timeout,
            ttl=cache,
            context=context,
            via=via,
            on_verdict=self._count,
            on_lookup=self._looked_up,
            on_judged=self._judged,
        )
        self._registry = registry
        self._name = f"mcp_{role}_protocol_detection"
        self._configured = configured
        self._auto = auto
        self._allowed = tuple(allowed)
        self._loopback = loopback
        self._accuracy_target = accuracy_target
        self._durations = Window()

    # Measuring

    def _count(self, verdict: Verdict) -> None:
        protocol = verdict.protocol or "none"
        self._registry.inc(f"{self._name}_total", protocol=protocol, result=verdict.result)
        if verdict.result != "refused":
            seconds = verdict.duration_ms / 1000
            self._registry.observe(f"{self._name}_duration_seconds", seconds, protocol=protocol)
            self._durations.add(seconds, time.monotonic())

    def _looked_up(self, hit: bool) -> None:
        self._registry.inc(f"{self._name}_cache_{'hits' if hit else 'misses'}_total")

    def _judged(self, protocol: str) -> None:
        ratio = self.detector.accuracy.ratio([protocol])
        self._registry.set(f"{self._name}_accuracy", ratio or 0.0, protocol=protocol)

    def snapshot(self) -> Detections:
        """Its part of the picture; closes verdicts that nobody confirmed in time."""
        now = time.monotonic()
        detector, accuracy = self.detector, self.detector.accuracy
        accuracy.expire(now)
        for protocol in accuracy.closed:
            self._judged(protocol)
        ratio = accuracy.ratio()
        buckets = self._durations.buckets(now)
        p50, p95 = ((quantile(buckets, q) if buckets else None) for q in (0.5, 0.95))
        return Detections(
            enabled=self.enabled,
            timeout_ms=detector.budget * 1000,
            cache_ttl_ms=detector.memory.ttl * 1000,
            fallback_protocol=self.fallback,
            accuracy=Ratio(
                sum(accuracy.confirmed.values()), sum(accuracy.closed.values()), None if ratio is None else round(ratio, 6)
            ),
            accuracy_target=self._accuracy_target,
            results=tuple(_found(entry, now) for entry in detector.memory.entries(now)),
            hits=detector.memory.hits,
            misses=detector.memory.misses,
            examined=detector.examined,
            failed=detector.failed,
            failures=tuple(
                Failed(f.time, f.target, f.reason, tuple(Tries(t.protocol, t.outcome, t.duration_ms) for t in f.tried))
                for f in detector.failures
            ),
            p50_ms=None if p50 is None else round(p50 * 1000, 3),
            p95_ms=None if p95 is None else round(p95 * 1000, 3),
        )

    # Acting

    def actions(self) -> Mapping[str, Action]:
        """Paths below the API's prefix and what a POST there does."""
        return {
            "/protocols/detect": self._detect,
            "/protocols/detect/refresh": self._refresh,
            "/protocols/cache/clear": self._clear,
        }

    async def _detect(self, asked: Asked) -> Any:
        targets = _targets(asked.members)
        guard = Guard(self._configured(), self._allowed, loopback=self._loopback)
        found = await self.detector.inspect(targets, guard)
        return {"results": [shown(verdict, cached=cached) for verdict, cached in found]}

    async def _refresh(self, _asked: Asked) -> Any:
        found, changed = await self.detector.refresh(list(dict.fromkeys(self._auto())))
        results = [shown(verdict, cached=False) for verdict, _ in found]
        return {"refreshed": len(results), "changed": changed, "results": results}

    async def _clear(self, _asked: Asked) -> Any:
        return {"cleared": self.detector.memory.clear()}


def _targets(body: dict[str, Any]) -> list[str]:
    """The targets of a request, one or many. Raises BridgeError("invalid_request")."""
    one, many = body.get("test_endpoint"), body.get("test_endpoints", [])
    targets = ([one] if one is not None else []) + (many if isinstance(many, list) else [None])
    if not all(isinstance(target, str) and target for target in targets):
        raise BridgeError("invalid_request", "test_endpoint is a text, test_endpoints a list of texts", sent=False)
    if not 1 <= len(targets) <= MAX_TARGETS:
        raise BridgeError("invalid_request", f"1 to {MAX_TARGETS} targets, in test_endpoint or test_endpoints", sent=False)
    return targets


def shown(verdict: Verdict, *, cached: bool) -> dict[str, Any]:
    """A verdict as documents have it. Source: contract http.router.detect.post."""
    members: dict[str, Any] = msgspec.to_builtins(verdict)
    names = ("target", "protocol", "era", "result", "confidence", "evidence", "duration_ms")
    return {name: members[name] for name in names} | {"cached": cached}


def _found(entry: Entry, now: float) -> Found:
    verdict = entry.verdict
    return Found(
        verdict.target, verdict.protocol, verdict.era, verdict.result, verdict.confidence, verdict.duration_ms,
        entry.hits > 0, round((now - entry.since) * 1000, 1), round((entry.until - now) * 1000, 1), entry.hits,
    )  # fmt: skip
