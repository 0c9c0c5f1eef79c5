"""The proxy loop of one server: pick a backend, try it, try again? Decisions are the server's; I/O is the attempt ring's.

Source: architecture section 5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from time import monotonic, perf_counter
from typing import Any

from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.retries import Retries
from mcpbridge.core.server import Backend, Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import retry_safe


def forward(attempt: Handler, *, max_attempts: int = 2, retries: Retries | None = None) -> Handler:
    """Answers an exchange whose target is one Server.

    A call that certainly never left us is tried on every backend; a sent one only when its method is retry-safe, at most
    ``max_attempts`` times, never past its deadline, and never while other backends are missing; what is
    sent again is paid from the budget ``retries``.
    """
    budget = retries if retries is not None else Retries()

    async def run(x: Exchange) -> Response | None:
        assert isinstance(x.target, Server)
        tried: set[Backend] = set()
        sent = 0
        budget.calls += 1
        while True:
            backend = x.target.choose(x, tried)
            x.backend = backend
            x.attempts += 1
            x.worked = 0.0
            try:
                with backend.in_flight(x):
                    return await (attempt(x) if backend.protocol == x.caller.protocol else Worked(attempt(x), x))
            except BridgeError as error:
                if error.fault.blames == "backend":
                    error.data = {"server": x.target.name, "protocol": backend.protocol, **error.data}
                if not (error.sent and x.target.is_linked(x)):
                    tried.add(backend)  # a session's link knows better where it goes on
                sent += error.sent
                if not x.target.may_retry(x, tried) or not _may_retry(x, error, sent, max_attempts):
                    raise
                if error.sent and not budget.spend(monotonic()):
                    raise
                budget.failovers += 1

    return run


class Worked:
    """Awaits an attempt and adds to ``x.worked`` the seconds in which it ran; what it waited for does not count.

    Between two protocols this is what the conversion of the message costs here (contract section 5).
    """

    __slots__ = ("_attempt", "_x")

    def __init__(self, attempt: Awaitable[Response | None], x: Exchange) -> None:
        self._attempt = attempt
        self._x = x

    def __await__(self) -> Generator[Any, Any, Response | None]:
        steps = self._attempt.__await__()
        thrown: BaseException | None = None
        while True:
            began = perf_counter()
            try:
                wanted = next(steps) if thrown is None else steps.throw(thrown)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
            finally:
                self._x.worked += perf_counter() - began
            thrown = None
            try:
                yield wanted
            except BaseException as error:  # noqa: BLE001 - a cancellation, mostly: it belongs to the attempt
                thrown = error


def _may_retry(x: Exchange, error: BridgeError, sent: int, max_attempts: int) -> bool:
    if error.fault.blames == "client" or x.deadline.remaining(monotonic()) <= 0:
        return False
    if not error.sent:
        return True
    return sent < max_attempts and isinstance(x.message, Request) and retry_safe(x.message.method)
