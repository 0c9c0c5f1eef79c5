"""How fast a running bridge is and what it holds: measured here, told in the Snapshot.

    every attempt -> Speed           calls, failures and latency by protocol; in a router by way and method too
    idle          -> Housekeeping    what the start made is frozen; garbage is collected while no call is under way

Source: contract http.router.performance*, ``memory_optimization.enabled``, ``direct_clients.memory_optimization``.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Literal

from mcpbridge.core.balance.measured import Share
from mcpbridge.observe.balancing import LoadBalancer
from mcpbridge.observe.performance import Collections, Memory, Performance, Pooling, ProtocolPerformance, Way
from mcpbridge.observe.pools import efficiency
from mcpbridge.observe.sketch import Window, add_up, percentiles, quantile
from mcpbridge.overload import memory_used

if TYPE_CHECKING:
    from mcpbridge.pools import Pools

ENOUGH: Final = 30  # calls of a method on both ways before they are compared
MAX_METHODS: Final = 50  # that are kept apart
LOOK: Final = 5.0  # seconds between two looks whether there is time to collect
WORTH: Final = 2000  # objects made since the last collection that make another one worth while


class Speed:
    """Of a process whose calls go to servers: ``attempted`` after each. Latencies of five minutes."""

    def __init__(self) -> None:
        self._protocols: dict[str, tuple[Share, Window]] = {}
        self._ways: dict[tuple[str, str], Window] = {}  # (way, method)

    def attempted(self, protocol: str, seconds: float | None, failed: bool, now: float) -> None:
        """A call on a server of ``protocol`` ended; ``seconds`` is None for one that lasts as long as its client likes."""
        known = self._protocols.get(protocol)
        if known is None:
            known = self._protocols[protocol] = (Share(), Window())
        known[0].add(failed, now)
        if seconds is not None:
            known[1].add(seconds, now)

    def went(self, way: Literal["direct", "gateway"], method: str, seconds: float, now: float) -> None:
        """A call was answered on one of the two ways of a router."""
        window = self._ways.get((way, method))
        if window is None:
            if len(self._ways) >= 2 * MAX_METHODS:
                return
            window = self._ways[way, method] = Window()
        window.add(seconds, now)

    def snapshot(self, pools: Pools | None, pooling: bool, now: float, balanced: LoadBalancer | None = None) -> Performance:
        """The picture now. ``pooling``: whether connections are kept; ``balanced``: who measures the protocols already."""
        hits, misses, took = pools.totals() if pools is not None else (0, 0, {})
        return Performance(
            Pooling(pooling, hits, misses, efficiency(hits, misses), percentiles(took, 1e6)),
            self._way("direct", now),
            self._way("gateway", now),
            self._improvement(now),
            tuple(self._protocol(name, now) for name in self._protocols)
            if balanced is None
            else tuple(
                ProtocolPerformance(one.protocol, one.requests_total, one.latency_ms, one.error_rate)
                for one in balanced.protocols
            ),
        )

    def _protocol(self, name: str, now: float) -> ProtocolPerformance:
        share, window = self._protocols[name]
        calls, failures = share.counts(now)
        rate = round(failures / calls, 6) if calls else None
        return ProtocolPerformance(name, share.total, percentiles(window.buckets(now)), rate)

    def _way(self, way: str, now: float) -> Way:
        parts = [window.buckets(now) for (own, _), window in self._ways.items() if own == way]
        return Way(percentiles(add_up(parts)))

    def _improvement(self, now: float) -> float | None:
        """By how many percent the median of direct calls is lower, weighted by them; None before there is enough."""
        weighed, calls = 0.0, 0
        for (way, method), window in self._ways.items():
            other = self._ways.get(("gateway", method))
            if way != "direct" or other is None:
                continue
            direct, through = window.buckets(now), other.buckets(now)
            count = sum(direct.values())
            if min(count, sum(through.values())) >= ENOUGH:
                weighed += count * (1 - (quantile(direct, 0.5) or 0.0) / (quantile(through, 0.5) or 1.0))
                calls += count
        return round(100 * weighed / calls, 2) if calls else None


class Housekeeping:
    """The garbage collector of this process. ``calls``: under way now; ``enabled`` False only measures."""

    def __init__(self, calls: Callable[[], int], *, enabled: bool) -> None:
        self._calls = calls
        self._enabled = enabled
        self._cycles = 0
        self._pauses = Window()
        self._began = 0.0
        self._baseline = 0

    async def follow(self) -> None:
        """Freeze what is there, then collect when there is time, until cancelled."""
        gc.callbacks.append(self._collecting)
        try:
            if self._enabled:
                gc.collect()
                gc.freeze()
            self._baseline = memory_used()
            while True:
                await asyncio.sleep(LOOK)
                self.look()
        finally:
            gc.callbacks.remove(self._collecting)

    def look(self) -> None:
        """Collect, if it is worth while and nobody waits."""
        if self._enabled and gc.get_count()[0] + 700 * gc.get_count()[1] >= WORTH and not self._calls():
            gc.collect()
            self._cycles += 1

    def _collecting(self, phase: str, _info: dict[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter()
        elif self._began:
            self._pauses.add(time.perf_counter() - self._began, time.monotonic())

    def snapshot(self, now: float) -> Memory:
        """The picture now."""
        pauses = percentiles(self._pauses.buckets(now))
        return Memory(
            self._enabled,
            memory_used() or None,
            self._baseline or None,
            Collections(self._cycles, gc.get_freeze_count(), pauses),
        )
