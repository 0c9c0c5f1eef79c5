"""The connections of a running bridge: what is told of them, and tidying them up.

    HttpPool (http, sse), Pool (conversations of the other protocols) -> Snapshot, mcp_router_connection_pool_*
    POST /api/v1/connections/optimize

Source: issue 5 item 3; contract http.router.connections.optimize and section 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcpbridge.core.pool import Pool
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.pools import PoolStatus, add_up, efficiency
from mcpbridge.observe.sketch import add_up as sketch_sum
from mcpbridge.observe.sketch import percentiles
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.wiring import Kept, Reach

if TYPE_CHECKING:
    from mcpbridge.admin.app import Action, Asked

_NAME = "mcp_router_connection_pool"


class Pools:
    """Of all servers that ``reaches`` reach. The router's metrics are set by every look."""

    def __init__(self, registry: Registry, reaches: Sequence[Reach]) -> None:
        self._registry = registry
        self._reaches = reaches
        self._counted: dict[HttpPool | Pool, tuple[int, int]] = {}  # hits and misses that the counters have

    def snapshot(self) -> tuple[PoolStatus, ...]:
        """The picture now."""
        kept = [one for reach in self._reaches for one in reach.kept()]
        found = add_up(_status(one) for one in kept)
        if self._registry.role == "router":
            self._count(kept)
            self._set_gauges(found)
        return found

    def totals(self) -> tuple[int, int, dict[int, int]]:
        """Hits and misses of what is kept now, and a sketch of the seconds that taking an HTTP connection took."""
        found = [_status(one) for reach in self._reaches for one in reach.kept()]
        pools = [one.pool for reach in self._reaches for one in reach.kept()]
        took = sketch_sum(pool.stats().took for pool in pools if isinstance(pool, HttpPool))
        return sum(one.hits for one in found), sum(one.misses for one in found), took

    def _count(self, kept: Sequence[Kept]) -> None:
        """Add to the counters what came since the last look. What is gone keeps what was counted of it."""
        counted: dict[HttpPool | Pool, tuple[int, int]] = {}
        for one in kept:
            status = _status(one)
            hits, misses = self._counted.get(one.pool, (0, 0))
            counted[one.pool] = (status.hits, status.misses)
            if status.hits > hits:
                self._registry.inc(f"{_NAME}_hits_total", status.hits - hits, protocol=one.protocol)
            if status.misses > misses:
                self._registry.inc(f"{_NAME}_misses_total", status.misses - misses, protocol=one.protocol)
        self._counted = counted

    def _set_gauges(self, found: Sequence[PoolStatus]) -> None:
        for protocol in {one.protocol for one in found}:
            self._registry.set(f"{_NAME}_size", float(sum(p.size for p in found if p.protocol == protocol)), protocol=protocol)
            hits = self._registry.counter(f"{_NAME}_hits_total", protocol=protocol).value
            misses = self._registry.counter(f"{_NAME}_misses_total", protocol=protocol).value
            if hits + misses:
                self._registry.set(f"{_NAME}_efficiency", hits / (hits + misses), protocol=protocol)

    def actions(self) -> Mapping[str, Action]:
        """Paths below the API's prefix and what a POST there does."""
        return {"/connections/optimize": self._optimize}

    async def _optimize(self, _asked: Asked) -> Any:
        """Close what nobody needs, replace what is old, open what is to be kept; calls in flight go on."""
        return {"pools": [await _tidied(one) for reach in self._reaches for one in list(reach.kept())]}


async def _tidied(one: Kept) -> dict[str, Any]:
    if isinstance(one.pool, HttpPool):
        before, closed, opened, after = await one.pool.tidy()
    else:
        before, opened = one.pool.size, 0
        closed = await one.pool.tidy()
        after = one.pool.size
    counts = {"before": before, "closed": closed, "opened": opened, "after": after}
    return {"protocol": one.protocol, "server": one.server, **counts}


def _status(one: Kept) -> PoolStatus:
    pool = one.pool
    if isinstance(pool, HttpPool):
        stats = pool.stats()
        size, in_use, waiting, hits, misses = stats.in_use + stats.idle, stats.in_use, stats.waiting, stats.hits, stats.misses
        most, least, took = pool.max_size, pool.min_size, percentiles(stats.took, 1e6)
    else:
        size, in_use, waiting, hits, misses = pool.size, pool.in_use, pool.waiting, pool.hits, pool.misses
        most, least, took = pool.limit, 0, percentiles({})
    return PoolStatus(
        one.server,
        one.protocol,
        size,
        in_use,
        size - in_use,
        waiting,
        most,
        least,
        hits,
        misses,
        efficiency(hits, misses),
        took,
    )
