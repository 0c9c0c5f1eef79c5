"""Checks: every backend is looked at in turn, and how many failures or successes make it down or up again.

    live legacy conversation   MCP ``ping`` on it
    any other                  ``server/discover``: on the conversation modern calls share, else on a fresh one
    child that nobody uses     left alone once it was up: a check would start a process
    its protocol has a health path   that is asked before

A check never calls a tool. A server that does not answer while calls are running may be at work on them: that is no verdict.
Those that are not ok are looked at sooner. Calls count as well: what they meet goes through the same thresholds.

Source: contract sections 2.2 (http.gateway.health.probe) and 3.1 (health_monitoring); reliability section 2.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m

if TYPE_CHECKING:
    from mcpbridge.core.server import Backend

_log = log("health")
_NO_REPLY = NoReply()
INTERVAL = 10.0  # seconds between looks at one that is ok
SOON = 1.0  # seconds after which one that is not is looked at again; doubled while it stays so
MAX_PAUSE = 30.0
DEADLINE = 10.0  # seconds one check of a server that was up may take
AT_ONCE = 32  # checks that run at the same time; those of children that start are not counted

Touch = Callable[["Backend"], Awaitable[None]]
"""Connects to a backend and says nothing. Raises BridgeError when it cannot be connected to."""

Told = Callable[["Backend", bool | None], None]
"""Told of every check: whether the backend was healthy; None without a verdict."""


class Checks:
    """How often backends are looked at, and who is told. ``interval``: seconds between two looks at one that is ok.

    ``touch`` given: connecting is all, nothing is asked; a child is connected to by its start."""

    def __init__(
        self,
        *,
        interval: float = INTERVAL,
        deadline: float = DEADLINE,
        told: Told = lambda *_: None,
        touch: Touch | None = None,
    ) -> None:
        self._interval = interval
        self._deadline = min(interval, deadline)
        self._told = told
        self._touch = touch
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def keep(self, backend: Backend) -> None:
        """Look at ``backend`` until cancelled: now, then after a pause that differs by a fifth, so that looks spread."""
        pause = SOON
        while True:
            if await self.look(backend):
                pause = SOON
            if backend.state == "ok":
                wait = self._interval
            else:
                wait = min(pause, self._interval if backend.state == "degraded" else MAX_PAUSE)
                pause = min(pause * 2, MAX_PAUSE)
            await asyncio.sleep(wait * random.uniform(0.8, 1.2))

    async def look(self, backend: Backend) -> bool | None:
        """One check; whether it is healthy, or None without a verdict."""
        is_start = backend.pool.is_child and backend.state != "ok"
        async with AsyncExitStack() as stack:
            if not is_start:
                await stack.enter_async_context(self._gate)
            verdict = await self._ask(backend, backend.pool.start_timeout if is_start else self._deadline)
        self._told(backend, verdict)
        return verdict

    async def _ask(self, backend: Backend, limit: float) -> bool | None:
        touch = self._touch if not backend.pool.is_child else None
        if self._touch is not None and touch is None and backend.state == "ok":
            return None
        session = backend.pool.any_legacy()
        if session is None and backend.pool.is_child and backend.state == "ok" and not backend.speaks.get("modern"):
            return None
        try:
            if backend.knock is not None and touch is None:
                async with asyncio.timeout(limit):
                    await backend.knock()
            if touch is not None:
                async with asyncio.timeout(limit):
                    await touch(backend)
                backend.succeeded()
            elif session is None:
                await backend.check(limit)
            else:
                session.users += 1  # it is not ended to make room meanwhile
                try:
                    async with asyncio.timeout(limit):
                        await session.upstream.call(m.request("health", "ping"), _NO_REPLY)
                finally:
                    session.users -= 1
                backend.succeeded()  # an error is an answer too
        except TimeoutError:
            return self._silent(backend, limit)
        except BridgeError as error:
            if error.reason == "timeout":
                return self._silent(backend, limit)
            if error.reason == "backend_session_lost":
                backend.succeeded()
                return True
            if error.fault.blames != "backend" or (session is not None and session.is_closed and session.cause is None):
                return None  # it was we who ended the conversation
            backend.missed(error)
            _log.debug("server is not up", protocol=backend.protocol, server=backend.server.name, reason=str(error))
            return False
        return True

    @staticmethod
    def _silent(backend: Backend, limit: float) -> bool | None:
        """No answer in time: it may be at work, or still starting."""
        if backend.active or backend.state == "unknown":
            return None
        backend.missed(BridgeError("timeout", f"server {backend.server.name!r} did not answer a check in {limit:g} s"))
        return False
