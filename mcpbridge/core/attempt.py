"""One attempt on one backend: counted while it runs, judged by how it ended.

Source: architecture section 6; reliability section 1 (circuit breakers).
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from mcpbridge.core.breaker import UNCOUNTED
from mcpbridge.core.exchange import Exchange
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request

if TYPE_CHECKING:
    from mcpbridge.core.server import Backend


class Attempt:
    """Context of one attempt on one backend."""

    __slots__ = ("_backend", "_group", "_own", "_started", "_x")

    def __init__(self, backend: Backend, x: Exchange) -> None:
        self._backend = backend
        self._x = x
        self._own = self._group = UNCOUNTED

    def __enter__(self) -> None:
        backend = self._backend
        self._started = time.perf_counter()
        backend.begin()
        if backend.breaker is not None and isinstance(self._x.message, Request):  # what nobody answers tells nothing
            now = time.monotonic()
            before = backend.breaker.state
            self._own = backend.breaker.begin(now)
            if backend.breaker.state != before:
                backend.tell_breaker(backend.breaker, "this call decides")
            if backend.group is not None:
                before = backend.group.state
                self._group = backend.group.begin(now)
                if backend.group.state != before:
                    backend.tell_breaker(backend.group, "this call decides")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        seconds = time.perf_counter() - self._started
        if self._own != UNCOUNTED or self._group != UNCOUNTED:
            self._judge(error)
        if error is None or isinstance(error, BridgeError):
            self._backend.ended(self._x, seconds, error)
            return
        self._backend.abandoned()
        if isinstance(error, asyncio.CancelledError):
            self._backend.observed(self._x, seconds, error)

    def _judge(self, error: BaseException | None) -> None:
        """Tell the breakers. What a server answers, errors included, is a success; what the client or we did tells nothing."""
        failed = isinstance(error, BridgeError) and error.fault.blames == "backend"
        backend = self._backend
        for breaker, ticket in ((backend.breaker, self._own), (backend.group, self._group)):
            if breaker is None:
                continue
            counts = failed and (breaker.rules.unsent or getattr(error, "sent", True))
            ok = True if error is None else False if counts else None
            before = breaker.state
            breaker.ended(ticket, ok, time.monotonic() if failed else 0.0)
            if breaker.state != before:
                backend.tell_breaker(breaker, str(error or ""))
