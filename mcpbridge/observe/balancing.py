"""Balancing as a part of the Snapshot: its state, its weights, how it does.

Source: contract http.gateway.lb.status, http.gateway.lb.weights, http.gateway.lb.performance.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from mcpbridge.observe.sketch import Latency, largest


class Factors(msgspec.Struct, frozen=True):
    """What becomes of a configured weight, 0.1 to 1 each: ``health`` at every look, the others by a rebalance."""

    health: float = 1.0
    latency: float = 1.0
    errors: float = 1.0


class ProtocolShare(msgspec.Struct, frozen=True):
    """One protocol. Shares, latency and errors are of the window; shares are None without calls, ``target_share`` also when the
    strategy aims at none. ``requests_total`` is since the start."""

    protocol: str
    configured_weight: float
    current_weight: float
    healthy: bool
    eligible: int
    total: int
    requests_total: int = 0
    requests_window: int = 0
    target_share: float | None = None
    actual_share: float | None = None
    latency_ms: Latency = Latency()
    error_rate: float | None = None


class LoadBalancer(msgspec.Struct, frozen=True):
    """``panicking``: servers so many of whose backends are sick that all are used. ``changed_by`` is a name of a user."""

    healthy: bool
    strategy: str
    endpoint_strategy: str
    health_aware: bool
    fallback_enabled: bool
    panic: bool
    since: str
    requests_total: int
    eligible: int
    total: int
    protocols: tuple[ProtocolShare, ...]
    weights: dict[str, float]
    defaults: dict[str, float]
    factors: dict[str, Factors]
    endpoints: dict[str, float]
    window_sec: float
    requests_window: int
    decisions_total: int
    failovers_total: int
    retries_total: int
    decision_us: Latency = Latency()
    imbalance: float | None = None
    panicking: tuple[str, ...] = ()
    changed_at: str | None = None
    changed_by: str | None = None


def merge_load_balancers(parts: Sequence[LoadBalancer]) -> LoadBalancer | msgspec.UnsetType:
    """One of several workers: totals add up, shares are weighted by calls, weights are those of who changed them last."""
    if not parts:
        return msgspec.UNSET
    latest = max(parts, key=lambda part: part.changed_at or "")
    names = dict.fromkeys(share.protocol for part in parts for share in part.protocols)
    protocols = tuple(
        _merge_shares([(part.requests_window, s) for part in parts for s in part.protocols if s.protocol == name])
        for name in names
    )
    return replace(
        latest,
        healthy=any(part.healthy for part in parts),
        panic=any(part.panic for part in parts),
        panicking=tuple(dict.fromkeys(name for part in parts for name in part.panicking)),
        since=min(part.since for part in parts),
        requests_total=sum(part.requests_total for part in parts),
        requests_window=sum(part.requests_window for part in parts),
        eligible=max(part.eligible for part in parts),
        total=max(part.total for part in parts),
        protocols=protocols,
        decisions_total=sum(part.decisions_total for part in parts),
        failovers_total=sum(part.failovers_total for part in parts),
        retries_total=sum(part.retries_total for part in parts),
        decision_us=largest(part.decision_us for part in parts),
        imbalance=imbalance(protocols),
    )


def imbalance(shares: Sequence[ProtocolShare]) -> float | None:
    """How far the calls are from where they were meant to go: the largest difference of a share; None if unknown."""
    gaps = [abs(s.actual_share - s.target_share) for s in shares if s.actual_share is not None and s.target_share is not None]
    return round(max(gaps), 6) if gaps else None


def _merge_shares(parts: list[tuple[int, ProtocolShare]]) -> ProtocolShare:
    """One protocol of several workers, each with the calls that it had of all protocols in the window."""
    calls = sum(n for n, _ in parts)
    own = sum(share.requests_window for _, share in parts)
    aimed = [(n, share.target_share) for n, share in parts if share.target_share is not None]
    failed = sum((share.error_rate or 0.0) * share.requests_window for _, share in parts)
    return replace(
        parts[-1][1],
        healthy=any(share.healthy for _, share in parts),
        eligible=max(share.eligible for _, share in parts),
        total=max(share.total for _, share in parts),
        requests_total=sum(share.requests_total for _, share in parts),
        requests_window=own,
        target_share=round(sum(n * target for n, target in aimed) / sum(n for n, _ in aimed), 6) if aimed else None,
        actual_share=round(own / calls, 6) if calls else None,
        latency_ms=largest(share.latency_ms for _, share in parts),
        error_rate=round(failed / own, 6) if own else None,
    )
