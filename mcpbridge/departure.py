"""The end of a gateway under clients: it says that it goes while it serves on, then takes nothing new, then waits.

    SIGTERM -> /readyz 503, HTTP answers end their connections   server.drain_delay, where somebody asks whether we are ready
            -> no new connections, no new work on old ones       idle clients are let go: 1001, end of stream, end of file
            -> what is in flight is answered                     server.drain_timeout after the signal at most

A load balancer learns from its next probes that it must send new calls elsewhere, and meets no closed door until then.

Source: issue 5 item 7; reliability section 3, row 19; contract cli.gateway.run, http.gateway.readyz.
"""

from __future__ import annotations

import asyncio
import time

from mcpbridge.faces import Frontends
from mcpbridge.observe.log import log
from mcpbridge.process import first_of

WATCHED: float = 60.0  # seconds since the last question whether we are ready in which somebody is taken to ask again
_log = log("gateway")


class Departure:
    """``has_begun`` from the signal on."""

    def __init__(self, delay: float, limit: float) -> None:
        """``delay`` and ``limit`` in seconds, both from the signal on."""
        self.has_begun = False
        self._delay = min(delay, limit)
        self._limit = limit
        self._asked_at = float("-inf")

    def asked(self) -> None:
        """Somebody asks whether we are ready."""
        self._asked_at = time.monotonic()

    async def run(self, frontends: Frontends, draining: asyncio.Event, now: asyncio.Future[int], *, patient: bool) -> bool:
        """Go; whether everything that had begun was answered. ``now``: the end must come at once; ``patient``: somebody who
        watches us may be waited for."""
        began = time.monotonic()
        self.has_begun = True
        frontends.announce()
        delay = self._delay if patient and began - self._asked_at < WATCHED else 0.0
        _log.info("draining", in_flight_limit_s=self._limit, still_accepting_s=delay)
        if delay:
            await asyncio.wait([now], timeout=delay)
        draining.set()
        frontends.stop_accepting()
        drained = asyncio.ensure_future(frontends.drain(max(0.0, began + self._limit - time.monotonic())))
        await first_of(drained, now)
        is_clean = drained.done() and frontends.connections == 0
        drained.cancel()
        return is_clean
