"""`POST /api/v1/execute`: one JSON-RPC message by itself, answered with where it went.

    {"jsonrpc":"2.0","id":1,"method":"tools/list"}  ->  {..., "protocol_used":"stdio","backend":"git/0",...}

A list that several backends answered names no single one: ``backend`` is null, ``backends`` names them all in the order of the
configuration, and ``protocol_used`` is the first one's.

A message in the legacy dialect has no session here; a passing one that declares nothing stands in, one per principal. It
keeps to no backend: every call goes where balancing sends it.

Source: contract section 2.3 (http.gateway.execute.*) and http.common.content-type.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any

from msgspec import Raw

from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Exchange, Handler, NoReply, Policy, Reply, view_of
from mcpbridge.core.server import Server
from mcpbridge.core.session import Session
from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.transports.http.listen import wishes
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import NEWEST_LEGACY, classify

_JSON = [("content-type", "application/json; charset=utf-8"), ("cache-control", "no-store")]
_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})
MAX_PASSING = 1000  # principals whose passing session is kept
_NOBODY = NoReply()


class Execute:
    """The endpoint and the policy that gives its exchanges their passing session (``policy`` stands after ``sessions``)."""

    def __init__(self, spawn: Spawn, *, deadline: float) -> None:
        self._spawn = spawn
        self._deadline = deadline
        self._passing: OrderedDict[tuple[str, str | None], ClientSession] = OrderedDict()
        self.front: Handler  # set by the wiring once the ring stands

    def policy(self) -> Policy:
        def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
            if x.caller.era == "legacy" and x.session is None and x.notes.get("passing"):
                x.session = self._session((x.caller.principal or ANONYMOUS).key, x.force_protocol)
            return handler(x)

        return policy

    async def handle(self, request: HttpRequest, responder: Responder, target: Server | tuple[Server, ...]) -> None:
        """Answer one POST. Never raises BridgeError."""
        kind = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        started = time.perf_counter()
        x: Exchange | None = None
        status = 200
        try:
            if kind not in _TYPES:
                status = 415
                raise BridgeError("invalid_request", f"content type {kind!r}, application/json expected")
            message = parse(request.body)
            if not isinstance(message, (Request, Notification)):
                raise BridgeError("invalid_request", "one JSON-RPC request or notification expected")
            x = self._exchange(message, request, target)
            response = await self.front(x)
        except BridgeError as error:
            status = status if status != 200 else error.fault.status
            headers = [("www-authenticate", error.data.pop("challenge"))] if "challenge" in error.data else []
            headers += [("retry-after", error.retry_after or "1")] if status in (429, 503) else []
            id = error.id if x is None else x.message.id if isinstance(x.message, Request) else None
            body = m.error(id, to_wire(error, request.id))
            await responder.respond(status, [*_JSON, *headers], _told(body, x, started))
            return
        if response is None:
            await responder.respond(202)
        else:
            await responder.respond(200, _JSON, _told(response, x, started))

    def _exchange(self, message: Request | Notification, request: HttpRequest, target: Server | tuple[Server, ...]) -> Exchange:
        forced, strategy = wishes(request.headers, message)
        era = classify(message)
        caller = Caller("http", era, request.peer, dict(request.headers.items()), request_id=request.id)
        deadline = Deadline(self._deadline, asyncio.get_running_loop().time())
        x = Exchange(message, view_of(message, era), caller, _NOBODY, deadline, target)
        x.force_protocol, x.strategy = forced, strategy
        x.notes["passing"] = True
        if message.method == "ping" and isinstance(target, tuple) and target:
            x.target = min(
                target, key=lambda s: (all(b.state == "down" for b in s.backends), sum(b.active for b in s.backends))
            )
        return x

    def _session(self, principal: str, protocol: str | None) -> ClientSession:
        """The passing session of a principal; a forced protocol has one of its own, for a session keeps to its backends."""
        key = (principal, protocol)
        session = self._passing.get(key)
        if session is None:
            session = self._passing[key] = ClientSession(Session("", principal, NEWEST_LEGACY), _NoBack())
            session.is_passing = True
            session.initialize = m.request(
                0,
                "initialize",
                {
                    "protocolVersion": NEWEST_LEGACY,
                    "capabilities": {},
                    "clientInfo": {"name": "mcpbridge-execute", "version": "1"},
                },
            )
            session.initialized = m.notification("notifications/initialized")
            if len(self._passing) > MAX_PASSING:
                _key, oldest = self._passing.popitem(last=False)
                self._spawn(oldest.close())
        self._passing.move_to_end(key)
        return session


class _NoBack:
    """Nobody hears what belongs to no call."""

    is_listening = False

    def notify(self, notification: Notification) -> None:
        return None

    async def ask(self, request: Request, reply: Reply) -> Response:
        raise BridgeError("unsupported_across_eras", "a caller of /execute cannot be asked", sent=False)

    def answered(self, response: Response) -> None:
        return None

    def progressed(self, notification: Notification) -> bool:
        return False

    def close(self) -> None:
        return None


def _told(response: Response, x: Exchange | None, started: float) -> bytes:
    """The response with where it went, at its top level."""
    used = [] if x is None else x.answered_by or ([x.backend] if x.backend is not None else [])
    extra: dict[str, Any] = {
        "protocol_used": used[0].protocol if used else None,
        "backend": used[0].name if len(used) == 1 else None,
        "attempts": x.attempts if x is not None else 0,
        "duration_ms": round((time.perf_counter() - started) * 1000, 3),
    }
    if len(used) > 1:
        extra["backends"] = [backend.name for backend in used]
    told = Response(
        response.id, response.result, response.error, b"", {**response.extra, **{k: Raw(m.dumps(v)) for k, v in extra.items()}}
    )
    return told.encode() + b"\n"
