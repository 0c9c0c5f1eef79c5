"""Kept connections as a part of the Snapshot.

Source: contract section 2.1 (``pools``), 5 (mcp_router_connection_pool_*).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from mcpbridge.observe.sketch import Latency, largest


class PoolStatus(msgspec.Struct, frozen=True):
    """The connections to one server over one protocol; where a conversation is a connection or a child, those.

    ``hits``: calls that found one, ``misses``: those that had to open one, since the start; ``efficiency``: hits among both.
    ``retrieval_us``: what taking one costs, where that is measured.
    """

    server: str
    protocol: str
    size: int
    in_use: int
    idle: int
    waiting: int
    max_size: int
    min_size: int = 0
    hits: int = 0
    misses: int = 0
    efficiency: float | None = None
    retrieval_us: Latency = Latency()


def efficiency(hits: int, misses: int) -> float | None:
    """0 to 1; None before the first call."""
    return round(hits / (hits + misses), 6) if hits + misses else None


def add_up(parts: Iterable[PoolStatus]) -> tuple[PoolStatus, ...]:
    """One for each server and protocol: several endpoints, or several workers."""
    grouped: dict[tuple[str, str], list[PoolStatus]] = {}
    for part in parts:
        grouped.setdefault((part.server, part.protocol), []).append(part)
    return tuple(_sum(own) for own in grouped.values())


def _sum(parts: list[PoolStatus]) -> PoolStatus:
    if len(parts) == 1:
        return parts[0]
    counts = ("size", "in_use", "idle", "waiting", "max_size", "min_size", "hits", "misses")
    total = {name: sum(getattr(part, name) for part in parts) for name in counts}
    return PoolStatus(
        parts[0].server,
        parts[0].protocol,
        **total,
        efficiency=efficiency(total["hits"], total["misses"]),
        retrieval_us=largest(part.retrieval_us for part in parts),
    )
