"""What a process costs and how fast its two ways are, as parts of the Snapshot. None (``null``) is what was not measured.

Source: contract http.router.performance, .protocols, .memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import UNSET, UnsetType

from mcpbridge.observe.pools import efficiency
from mcpbridge.observe.sketch import Latency, largest

WINDOW_SEC = 300
"""Seconds that latencies and error rates look back."""


class Pooling(msgspec.Struct, frozen=True):
    """All kept connections together. ``efficiency``: calls that found one, of all; ``retrieval_us``: what taking one costs."""

    enabled: bool
    hits: int = 0
    misses: int = 0
    efficiency: float | None = None
    retrieval_us: Latency = Latency()


class Way(msgspec.Struct, frozen=True):
    """How long the calls of one way take."""

    latency_ms: Latency = Latency()


class ProtocolPerformance(msgspec.Struct, frozen=True):
    """Calls on the servers of one protocol. ``requests_total`` since the start, the others over WINDOW_SEC."""

    protocol: str
    requests_total: int
    latency_ms: Latency = Latency()
    error_rate: float | None = None


class Performance(msgspec.Struct, frozen=True):
    """``direct`` and ``gateway``: the two ways of a router. ``latency_improvement_percent``: how much less time direct calls
    take, over methods that both ways have served often enough."""

    connection_pooling: Pooling
    direct: Way = Way()
    gateway: Way = Way()
    latency_improvement_percent: float | None = None
    protocols: tuple[ProtocolPerformance, ...] = ()


class Collections(msgspec.Struct, frozen=True):
    """The garbage collector. ``cycles_total``: collections that were made while nothing was to do; ``frozen_objects``: of the
    start, never looked at again; ``pause_ms``: of all collections, over WINDOW_SEC."""

    cycles_total: int = 0
    frozen_objects: int = 0
    pause_ms: Latency = Latency()


class Memory(msgspec.Struct, frozen=True):
    """Bytes of the process now and when it began to serve; None where the system does not tell."""

    enabled: bool
    rss_bytes: int | None = None
    baseline_rss_bytes: int | None = None
    gc: Collections = Collections()


def merge_performance(told: Sequence[Performance | UnsetType]) -> Performance | UnsetType:
    """Of several workers: counts add up, of percentiles and rates the largest is given."""
    parts = [part for part in told if not isinstance(part, UnsetType)]
    if len(parts) < 2:
        return parts[0] if parts else UNSET
    pools = [part.connection_pooling for part in parts]
    hits, misses = sum(one.hits for one in pools), sum(one.misses for one in pools)
    by_protocol: dict[str, list[ProtocolPerformance]] = {}
    for one in (one for part in parts for one in part.protocols):
        by_protocol.setdefault(one.protocol, []).append(one)
    return Performance(
        Pooling(
            any(one.enabled for one in pools), hits, misses, efficiency(hits, misses), largest(p.retrieval_us for p in pools)
        ),
        Way(largest(part.direct.latency_ms for part in parts)),
        Way(largest(part.gateway.latency_ms for part in parts)),
        None,
        tuple(
            ProtocolPerformance(
                name,
                sum(one.requests_total for one in own),
                largest(one.latency_ms for one in own),
                max((one.error_rate for one in own if one.error_rate is not None), default=None),
            )
            for name, own in by_protocol.items()
        ),
    )


def merge_memory(told: Sequence[Memory | UnsetType]) -> Memory | UnsetType:
    """Of several workers: their sum, and the largest pauses."""
    parts = [part for part in told if not isinstance(part, UnsetType)]
    if len(parts) < 2:
        return parts[0] if parts else UNSET

    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if known else None

    return Memory(
        any(part.enabled for part in parts),
        total([part.rss_bytes for part in parts]),
        total([part.baseline_rss_bytes for part in parts]),
        Collections(
            sum(part.gc.cycles_total for part in parts),
            sum(part.gc.frozen_objects for part in parts),
            largest(part.gc.pause_ms for part in parts),
        ),
    )
