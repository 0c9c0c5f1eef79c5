"""The server half of Streamable HTTP: POST, GET and DELETE at one endpoint, both eras, found by the body.

    modern POST   JSON, or SSE from the first notification on; a client that goes away cancels
    legacy POST   JSON within 1 s and without notifications, else a primed SSE stream; a client that goes away does not cancel
    legacy GET    the session's stream, or a POST's stream taken up again by Last-Event-ID

Source: mcp-eras sections 1.2, 1.3 and 2; shared decision 3; contract 6.4 (statuses).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from time import monotonic

from mcpbridge.core.balance.policy import REQUESTABLE, Strategy
from mcpbridge.core.events import OpenLog
from mcpbridge.core.exchange import Caller, Deadline, Exchange, Handler, NoReply, Reply, SessionMethod, SessionOp, View, view_of
from mcpbridge.core.server import Server
from mcpbridge.core.session import Session
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import PROTOCOL_NAMES
from mcpbridge.transports.http.legacy import Patience, answer_batch, answer_post, serve_stream
from mcpbridge.transports.http.outcome import COMMENT, JSON, KEEP_ALIVE, SSE, answered_status, extra, first, refuse
from mcpbridge.transports.http.session import HttpSession
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.http1 import Headers
from mcpbridge.wire.message import Message, Notification, Request, Response
from mcpbridge.wire.spec import SUBSCRIPTION_ID, check_batch, classify
from mcpbridge.wire.sse import encode_event

_log = log("http")
_NOBODY = NoReply()
Target = Server | tuple[Server, ...]


class HttpFrontend:
    """Turns HTTP requests at an MCP endpoint into exchanges. ``deadline``: seconds for a call without a value of its own."""

    def __init__(self, front: Handler, draining: asyncio.Event, open_log: OpenLog, *, deadline: float = 300.0) -> None:
        """``draining``: once it is set, streams that would never end are ended in order. ``open_log``: keeps what legacy
        clients may come back for."""
        self._front = front
        self._open_log = open_log
        self._draining = draining
        self._deadline = deadline
        self._patience = Patience()

    def handle(self, request: HttpRequest, responder: Responder, target: Target) -> Awaitable[None]:
        """Answer one HTTP request to the endpoint that shows ``target``. Never raises BridgeError."""
        if request.method == "POST":
            return self._post(request, responder, target)
        if request.method in ("GET", "DELETE"):
            return self._session_op(request, responder, target)
        return responder.respond(405, [("allow", "POST, GET, DELETE")], b"")

    # POST

    async def _post(self, request: HttpRequest, responder: Responder, target: Target) -> None:
        kind = request.headers.get("content-type") or ""
        if kind != "application/json" and (kind := kind.partition(";")[0].strip().lower()) != "application/json":
            error = BridgeError("invalid_request", f"content type {kind or 'missing'!r}, application/json expected")
            await refuse(responder, None, error, 415, request.id)
            return
        try:
            message = parse(request.body)
            era = classify(message, request.headers.get("mcp-protocol-version"))
            forced, strategy = wishes(request.headers, message)
        except BridgeError as error:
            await refuse(responder, error.id, error, error.fault.status, request.id)
            return
        if isinstance(message, list):
            await self._batch(message, request, responder, target)
            return
        caller = Caller("http", era, request.peer, request.headers, request_id=request.id)
        x = Exchange(message, view_of(message, era), caller, _NOBODY, self._new_deadline(), target)
        x.force_protocol, x.strategy = forced, strategy
        if era == "modern":
            await self._modern(x, responder)
        else:
            self._in_session(x)
            await answer_post(x, request, responder, self._answer, self._patience)

    def _in_session(self, x: Exchange) -> Exchange:
        x.session_id = x.caller.headers.get("mcp-session-id")
        x.open_back = self._open_back
        return x

    def _open_back(self, record: Session) -> HttpSession:
        return HttpSession(record, self._open_log(record))

    async def _modern(self, x: Exchange, responder: Responder) -> None:
        reply = x.reply = ModernReply(responder)
        if x.view.method == "subscriptions/listen":
            reply.keep_alive()
        try:
            response, status = await (self._answer(x) if x.view.method != "subscriptions/listen" else self._listen(x))
        finally:
            reply.finish()
        if responder.started:
            if response is not None:
                responder.send(encode_event(response.encode()))
            await responder.end()
        elif response is None:
            await responder.respond(202)
        else:
            await responder.respond(status, [*JSON, *extra(x)], response.encode())

    async def _listen(self, x: Exchange) -> tuple[Response | None, int]:
        """A listen ends in order when the process drains (mcp-eras section 3, listen end)."""
        answer = asyncio.ensure_future(self._answer(x))
        try:
            await first(answer, self._draining)
            if answer.done():
                return answer.result()
            return m.result(x.request.id, {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: x.request.id}}), 200
        finally:
            answer.cancel("the bridge ends")

    async def _answer(self, x: Exchange) -> tuple[Response | None, int]:
        """The exchange's response and its HTTP status; every failure becomes a JSON-RPC error."""
        try:
            response = await self._front(x)
        except BridgeError as error:
            x.notes["challenge"] = error.data.pop("challenge", None)
            x.notes["retry_after"] = error.retry_after
            return _refused(x, error)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            _log.error(
                "request failed inside the bridge", protocol="http", method=x.view.method, error=repr(error), exc_info=True
            )
            return _refused(x, BridgeError("internal_error"))
        if response is None or response.error is None or x.caller.era == "legacy":
            return response, 200
        return response, answered_status(response.error)

    # Batches, GET and DELETE: operations on a legacy session

    async def _batch(self, batch: list[Message], request: HttpRequest, responder: Responder, target: Target) -> None:
        """Split a batch once its session is found and speaks the one version that has them."""
        x = self._operation("BATCH", request, target)
        refused, status = await self._answer(x)
        if refused is not None:
            await responder.respond(status, [*JSON, *extra(x)], refused.encode())
            return
        assert x.session is not None
        try:
            check_batch(batch, x.session.record.version)
        except BridgeError as error:
            await refuse(responder, None, error, error.fault.status, request.id)
            return
        parts = [
            self._in_session(Exchange(part, view_of(part, "legacy"), x.caller, _NOBODY, self._new_deadline(), target))
            for part in batch
        ]
        await answer_batch(x, parts, request, responder, self._answer, self._patience)

    def _operation(self, method: SessionMethod, request: HttpRequest, target: Target) -> Exchange:
        caller = Caller("http", "legacy", request.peer, request.headers, request_id=request.id)
        return self._in_session(Exchange(SessionOp(method), View(method), caller, _NOBODY, self._new_deadline(), target))

    async def _session_op(self, request: HttpRequest, responder: Responder, target: Target) -> None:
        if "mcp-session-id" not in request.headers:
            await responder.respond(405, [("allow", "POST")], b"")
            return
        if request.method == "GET" and "text/event-stream" not in (request.headers.get("accept") or ""):
            error = BridgeError("invalid_request", "Accept must list text/event-stream")
            await refuse(responder, None, error, 406, request.id)
            return
        x = self._operation("GET" if request.method == "GET" else "DELETE", request, target)
        response, status = await self._answer(x)
        if response is not None:
            await responder.respond(status, [*JSON, *extra(x)], response.encode())
        elif request.method == "DELETE":
            await responder.respond(200)
        else:
            assert x.session is not None and isinstance(x.session.back, HttpSession)
            await serve_stream(x.session.back, request, responder, self._draining)

    def _new_deadline(self) -> Deadline:
        return Deadline(self._deadline, monotonic())


def _refused(x: Exchange, error: BridgeError) -> tuple[Response | None, int]:
    """A failed exchange's response and HTTP status (why legacy clients have theirs: ``mcpbridge.errors``)."""
    legacy = x.caller.era == "legacy" and not isinstance(x.message, SessionOp)
    status = error.fault.legacy_status if legacy else error.fault.status
    if isinstance(x.message, Request):
        return m.error(x.message.id, to_wire(error, x.caller.request_id)), status
    if legacy and status == 200:
        return None, 202  # it has no answer that could fail, and the Python SDK 1.x ends its session at most other statuses
    return m.error(None, to_wire(error, x.caller.request_id)), status


def wishes(headers: Headers, message: Message | list[Message]) -> tuple[str | None, Strategy | None]:
    """The one protocol that ``X-Force-Protocol`` leaves, and how ``X-Load-Balance`` shares this call.

    Raises BridgeError("invalid_request") for a protocol or a strategy that is not known.
    """
    forced, named = headers.get("x-force-protocol"), headers.get("x-load-balance")
    if forced is None and named is None:
        return None, None
    strategy = None if named is None else REQUESTABLE.get(named.strip().lower().replace("-", "_"))
    id = message.id if isinstance(message, Request) else None
    if forced is not None and forced not in PROTOCOL_NAMES:
        raise BridgeError("invalid_request", f"X-Force-Protocol: one of {', '.join(PROTOCOL_NAMES)}", id=id)
    if named is not None and strategy is None:
        raise BridgeError("invalid_request", f"X-Load-Balance: one of {', '.join(REQUESTABLE)}", id=id)
    return forced, strategy


class ModernReply:
    """Notifications turn the answer into an SSE stream; a question cannot be asked in the modern era."""

    can_ask = False

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._beat: asyncio.TimerHandle | None = None

    def notify(self, notification: Notification) -> None:
        if not self._responder.started:
            self._responder.start_now(200, SSE)
        self._responder.send(encode_event(notification.encode()))

    def keep_alive(self) -> None:
        """Comments on a long silent stream, so that proxies in between do not end it; until ``finish``."""
        if self._responder.started:
            self._responder.send(COMMENT)
        self._beat = asyncio.get_running_loop().call_later(KEEP_ALIVE, self.keep_alive)

    def finish(self) -> None:
        if self._beat is not None:
            self._beat.cancel()

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("a modern client is not asked")
