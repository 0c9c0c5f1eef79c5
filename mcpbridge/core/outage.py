"""Outage: calls for a server that cannot be reached wait in order for it to come back, instead of failing.

    call  --not reached-->  waits  <--  one task tries every backend, with full jitter  -->  the call is sent again

Only what certainly never left us waits, or may run twice because its method is retry-safe. An outage that lasts longer than
``patience`` is told to callers at once, with its cause; the tries go on, and the first success ends it.

Source: issue 5 item 8; contract ``gateway.connection.reconnect.*``; reliability section 3 row 31.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic

from mcpbridge.core.backoff import Backoff, Reconnect
from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.pool import PATIENCE
from mcpbridge.core.server import Backend, Server
from mcpbridge.core.tasks import Spawn, share
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import retry_safe

_log = log("gateway")
_LOST = frozenset({"stream_closed", "backend_session_lost"})  # the connection ended under the call


def _fails(backend: Backend) -> bool:
    """Whether it can be reached, and is left alone all the same. One that is being tried again is worth a moment."""
    return backend.state != "down" and backend.breaker is not None and backend.breaker.state == "open"


class Outage:
    """The outages of one server. ``limit``: most calls that wait at once; ``patience``: seconds one may wait."""

    def __init__(self, server: Server, rules: Reconnect, spawn: Spawn, *, limit: int, patience: float = PATIENCE) -> None:
        self._server = server
        self._rules = rules
        self._spawn = spawn
        self._limit = limit
        self._patience = patience
        self._since = 0.0  # monotonic; when the present outage began
        self._trying: asyncio.Future[None] | None = None  # done when the server is back, or given up
        self.waiting = 0

    def around(self, handler: Handler) -> Handler:
        """``handler``, where calls for this server outlast its outages; those for others are not touched."""

        async def run(x: Exchange) -> Response | None:
            if x.target is not self._server or not isinstance(x.message, Request):
                return await handler(x)
            ends = 0.0
            while True:
                try:
                    response = await handler(x)
                    failure = self._going(x, response)
                    if failure is None:
                        return response
                except BridgeError as error:
                    failure = error
                    if not self._may_wait(x, error) or (error.sent and ends):  # what was sent is sent once more at most
                        raise
                ends = ends or monotonic() + self._patience
                await self._wait(x, failure, ends)

        return run

    def _may_wait(self, x: Exchange, error: BridgeError) -> bool:
        if error.fault.blames != "backend" or not error.fault.retryable:
            return False
        if error.reason == "breaker_open" and any(_fails(backend) for backend in self._server.backends):
            return False  # it is there and fails: its breaker says when it is tried again
        return not error.sent or (error.reason in _LOST and retry_safe(x.request.method))

    def _going(self, x: Exchange, response: Response | None) -> BridgeError | None:
        """A gateway that shuts down says so instead of running the call: the next one is asked, or its successor."""
        if response is None or response.error is None or b'"reason":"draining"' not in bytes(response.error):
            return None
        error = BridgeError("draining", f"server {self._server.name!r} is shutting down", sent=False)
        if x.backend is not None:
            x.backend.missed(error)
        return error

    async def _wait(self, x: Exchange, failure: BridgeError, ends: float) -> None:
        """Until the server is back. Raises ``failure`` when it is not in time, or too many wait already."""
        now = monotonic()
        if self._trying is None or self._trying.done():
            self._since = now
            self._trying = share(self._spawn, self._come_back())
            _log.warn("gateway lost; calls wait for it", server=self._server.name, reason=str(failure))
        remaining = min(ends, self._since + self._patience) - now
        if remaining <= 0:
            raise failure
        if self.waiting >= self._limit:
            raise BridgeError(
                "queue_full", f"{self.waiting} calls wait for server {self._server.name!r}; {failure}", sent=False
            )
        self.waiting += 1
        try:
            done, _ = await asyncio.wait([self._trying], timeout=min(remaining, x.deadline.remaining(now)))
        finally:
            self.waiting -= 1
        if not done or done.pop().exception() is not None:
            raise failure

    async def _come_back(self) -> None:
        """Try every backend in turn until one answers. Raises the newest failure after the last attempt."""
        backoff = Backoff(self._rules.initial, self._rules.maximum)
        failures = 0
        while True:
            await asyncio.sleep(backoff.next(random.random()))
            failure: BridgeError | None = None
            for backend in list(self._server.backends):
                try:
                    await backend.check(backend.pool.start_timeout)
                except BridgeError as error:
                    if error.fault.retryable and error.fault.blames == "backend":
                        failure = error
                        continue
                _log.info("gateway reached", server=self._server.name, backend=backend.name, failures=failures)
                return  # an answer, though perhaps one that callers have to be told
            failures += 1
            if failure is not None and 0 <= self._rules.attempts <= failures:
                _log.warn("gateway given up until the next call", server=self._server.name, failures=failures)
                raise failure
