"""Sessions: a legacy client's initialize, its answers and cancellations, and the end of its session.

A session id locates, the token authorizes: every message is compared with the session's principal, and a stranger gets the
same 404 as for an id that never was.

Source: MCP 2025-11-25 lifecycle and Streamable HTTP sessions; architecture section 7; shared decisions 5 and 6.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from msgspec import Raw

from mcpbridge.core.client_session import ClientSession, ClientSessions
from mcpbridge.core.exchange import ANONYMOUS, Exchange, Handler, Policy, SessionOp
from mcpbridge.core.session import Session
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Notification, Request, Response, dumps, loads

_log = log("sessions")
DEFAULT_VERSION = "2025-11-25"
MAX_CALLS = 1000  # calls of one session in flight; a client that goes away does not end its calls, so they must be counted


def sessions(live: ClientSessions, mint: Callable[[Session], str]) -> Policy:
    """``mint`` makes the id of a new session from its record (a seal for HTTP clients)."""

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        return handler(x) if x.caller.era == "modern" else legacy(x, handler)

    async def legacy(x: Exchange, handler: Handler) -> Response | None:
        message = x.message
        if isinstance(message, Request) and message.method == "initialize":
            if x.session is not None:
                raise BridgeError("invalid_request", "this session is initialized already", sent=False)
            return await _initialize(x, handler, live, mint)
        if x.session is None and x.open_back is not None:
            if x.session_id is None:
                raise BridgeError("session_required", "send the Mcp-Session-Id that initialize answered", sent=False)
            x.session = await live.get(x.session_id, (x.caller.principal or ANONYMOUS).key)
        elif x.session is None:
            return await handler(x)
        elif x.session.record.principal != (x.caller.principal or ANONYMOUS).key:
            raise BridgeError("session_unknown", "it belongs to somebody else; connect and initialize again", sent=False)
        session = x.session
        if isinstance(message, SessionOp):
            if message.method == "DELETE":
                await live.end(session)
            return None
        if isinstance(message, Response):
            session.back.answered(message)
            return None
        if isinstance(message, Notification):
            return await _notification(x, message, session, handler)
        return await _tracked(x, message, session, handler)

    return policy


async def _initialize(x: Exchange, handler: Handler, live: ClientSessions, mint: Callable[[Session], str]) -> Response | None:
    if x.open_back is None:
        raise BridgeError("invalid_request", "this endpoint has no sessions", sent=False)
    request = _complete(x.request)
    x.message = request
    params = request.params or {}
    now = time.time()
    record = Session(
        id="",
        principal=(x.caller.principal or ANONYMOUS).key,
        version=text(params.get("protocolVersion")) or DEFAULT_VERSION,
        client_info=bytes(params["clientInfo"]).decode(),
        capabilities=bytes(params["capabilities"]).decode(),
        created=now,
        last_used=now,
        protocol=x.caller.protocol,
    )
    record.id = mint(record)
    session = x.session = ClientSession(record, x.open_back(record))
    session.initialize = request
    await live.add(session)
    try:
        response = await handler(x)
        if response is not None and response.result is not None:
            said = members(response.result, "bad_answer")
            record.version = text(said.get("protocolVersion")) or record.version
            return response
    except BaseException:
        await live.end(session)
        raise
    await live.end(session)
    return response


def _complete(request: Request) -> Request:
    """An initialize that lacks members gets the defaults (contract cli.router.initialize-empty)."""
    params = dict(request.params or {})
    missing = [name for name in ("protocolVersion", "capabilities", "clientInfo") if name not in params]
    if not missing:
        for name in ("capabilities", "clientInfo"):
            if not isinstance(loads(params[name]), dict):
                raise BridgeError("invalid_params", f"{name} is not an object", sent=False)
        return request
    _log.warn("initialize lacks members; defaults are taken", missing=", ".join(missing))
    params.setdefault("protocolVersion", Raw(dumps(DEFAULT_VERSION)))
    params.setdefault("capabilities", Raw(b"{}"))
    params.setdefault("clientInfo", Raw(dumps({"name": "unknown", "version": "0"})))
    return request.with_params(params)


async def _notification(x: Exchange, message: Notification, session: ClientSession, handler: Handler) -> Response | None:
    if message.method == "notifications/cancelled":
        raw = message.param("requestId")
        id = loads(raw) if raw is not None else None
        call = session.calls.get(id) if isinstance(id, (int, str)) else None
        if call is not None:
            task, cancelled = call
            cancelled.cancel_reason = text(message.param("reason")) or "cancelled by the client"
            task.cancel(cancelled.cancel_reason)
        return None
    if message.method == "notifications/progress" and session.back.progressed(message):
        return None
    if message.method == "notifications/initialized":
        session.initialized = message
    return await handler(x)


async def _tracked(x: Exchange, message: Request, session: ClientSession, handler: Handler) -> Response | None:
    """Remember the task under the client's id, so that a cancelled notification in another POST finds it."""
    if x.caller.connection is not None:
        return await handler(x)  # a duplex connection cancels its own tasks
    if message.id in session.calls:
        raise BridgeError("invalid_request", "a request with this id is still in flight", sent=False)
    if len(session.calls) >= MAX_CALLS:
        raise BridgeError("queue_full", f"{MAX_CALLS} requests of this session are in flight already", sent=False)
    task = asyncio.current_task()
    assert task is not None
    session.calls[message.id] = (task, x)
    try:
        return await handler(x)
    finally:
        session.calls.pop(message.id, None)
