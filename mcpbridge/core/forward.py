"""The proxy loop of one server: pick a backend, try it, try again? Decisions are the server's; I/O is the attempt ring's.

Source: architecture section 5.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from time import monotonic, perf_counter
from typing import Any

from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.retries import Retries
from mcpbridge.core.server import Backend, Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import retry_safe

_ENDS = frozenset(("stream_closed", "server_exited", "connection_refused"))  # of a conversation


def forward(attempt: Handler, *, max_attempts: int = 2, retries: Retries | None = None) -> Handler:
    """Answers an exchange whose target is one Server.

    A call that certainly never left us is tried on every backend; a sent one only when it may run twice (``core.repeats``), at
    most ``max_attempts`` times, never past its deadline, and never while other backends are missing; what is sent again is paid
    from the budget ``retries``. While another try is possible, one of a retry-safe method is given up early.
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
                    trying = attempt(x) if backend.protocol == x.caller.protocol else Worked(attempt(x), x)
                    if len(x.target.backends) == 1:
                        return await trying
                    return await _one_of_several(x, trying, backend, tried, is_last=sent + 1 >= max_attempts)
            except BridgeError as error:
                if error.fault.blames == "backend":
                    error.data = {"server": x.target.name, "protocol": backend.protocol, **error.data}
                if not _goes_on(x, error, {*tried, backend}):
                    tried.add(backend)
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
    assert isinstance(x.target, Server)
    return sent < max_attempts and isinstance(x.message, Request) and x.target.repeatable.allows(x.message)


def _goes_on(x: Exchange, error: BridgeError, tried: set[Backend]) -> bool:
    """Whether the session's link is to be asked again, because its conversation ended: it opens another, here or elsewhere.

    Where another backend can be asked beside the link, the call ``strays`` there instead.
    """
    assert isinstance(x.target, Server)
    if not error.sent or not x.target.is_linked(x):
        return False
    x.strays = x.target.may_stray(x, tried)
    return not x.strays and error.reason in _ENDS


async def _one_of_several(
    x: Exchange, trying: Awaitable[Response | None], backend: Backend, tried: set[Backend], *, is_last: bool
) -> Response | None:
    """A try while other backends are there: what it teaches is kept, and it is given up early when another may be asked."""
    assert isinstance(x.target, Server)
    server, method = x.target, x.view.method
    began = monotonic()
    if not retry_safe(method):
        return await trying
    if (
        is_last
        or backend.state not in ("ok", "degraded")
        or not (server.may_retry(x, {*tried, backend}) or server.may_stray(x, {*tried, backend}))
    ):
        response = await trying
    else:
        limit = server.patience.seconds(began)
        alarm = asyncio.timeout(limit)
        try:
            async with alarm:
                response = await trying
        except TimeoutError:
            if not alarm.expired():
                raise
            detail = f"server {server.name!r} did not answer {method} in {limit:g} s"
            raise BridgeError("timeout", detail, server=server.name) from None
    server.patience.answered(monotonic() - began, began)
    if method == "tools/list" and response is not None and response.result is not None:
        server.repeatable.learn(response.result)
    return response
