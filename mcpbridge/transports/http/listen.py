"""The server half of Streamable HTTP: POST, GET and DELETE at one endpoint, both eras, found by the body.

    modern POST   JSON, or SSE from the first notification on; a client that goes away cancels
    legacy POST   JSON within 1 s and without notifications, else a primed SSE stream; a client that goes away does not cancel
    legacy GET    the session's stream, or a POST's stream taken up again by Last-Event-ID

Source: mcp-eras sections 1.2, 1.3 and 2; shared decision 3; contract 6.4 (statuses).
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from msgspec import Raw

from mcpbridge.core.exchange import Caller, Deadline, Exchange, Handler, NoReply, SessionOp, View, view_of
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError, status_of, to_wire
from mcpbridge.observe.log import log
from mcpbridge.transports.http.session import GENERAL, HttpSession, Stream, position
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, parse
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import SUBSCRIPTION_ID, classify
from mcpbridge.wire.sse import encode_event

_log = log("http")
_NOBODY = NoReply()
_JSON = [("content-type", "application/json")]
_SSE = [("content-type", "text/event-stream"), ("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no")]
FAST_ANSWER = 1.0  # seconds a legacy answer may take before its stream opens (decision 3)
KEEP_ALIVE = 15.0  # seconds between comments on a silent stream
_KEEP_ALIVE = b":\r\n\r\n"
_CODE = re.compile(rb"-?[0-9]{1,6}").fullmatch
Target = Server | tuple[Server, ...]


class HttpFrontend:
    """Turns HTTP requests at an MCP endpoint into exchanges. ``deadline``: seconds for a call without a value of its own."""

    def __init__(self, front: Handler, draining: asyncio.Event, *, deadline: float = 300.0) -> None:
        """``draining``: once it is set, streams that would never end are ended in order."""
        self._front = front
        self._draining = draining
        self._deadline = deadline

    async def handle(self, request: HttpRequest, responder: Responder, target: Target) -> None:
        """Answer one HTTP request to the endpoint that shows ``target``. Never raises BridgeError."""
        if request.method == "POST":
            await self._post(request, responder, target)
        elif request.method in ("GET", "DELETE"):
            await self._session_op(request, responder, target)
        else:
            await responder.respond(405, [("allow", "POST, GET, DELETE")], b"")

    # POST

    async def _post(self, request: HttpRequest, responder: Responder, target: Target) -> None:
        kind = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            error = BridgeError("invalid_request", f"content type {kind or 'missing'!r}, application/json expected")
            await _refuse(responder, None, error, 415)
            return
        try:
            message = parse(request.body)
            if isinstance(message, list):
                raise BridgeError("invalid_request", "batches are not supported by this protocol version")
            era = classify(message, request.headers.get("mcp-protocol-version"))
        except BridgeError as error:
            await _refuse(responder, error.id, error, error.fault.status)
            return
        caller = Caller("http", era, request.peer, request.headers)
        x = Exchange(message, view_of(message, era), caller, _NOBODY, self._new_deadline(), target)
        if era == "modern":
            await self._modern(x, responder)
        else:
            x.session_id = request.headers.get("mcp-session-id")
            x.open_back = lambda _record: HttpSession()
            await self._legacy(x, request, responder)

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
            await responder.respond(status, [*_JSON, *_extra(x)], response.encode())

    async def _legacy(self, x: Exchange, request: HttpRequest, responder: Responder) -> None:
        reply = x.reply = LegacyReply(x, responder, "text/event-stream" in (request.headers.get("accept") or ""))
        if isinstance(x.message, Request):
            responder.on_gone = reply.gone
            reply.wait(asyncio.get_running_loop())
        try:
            response, status = await self._answer(x)
        except asyncio.CancelledError:
            if x.cancel_reason is None:
                raise
            # Cancelled by a notification: nothing more may be said about the call, but its POST must end.
            await reply.close()
            return
        finally:
            reply.finish()
        if reply.stream is not None:
            if response is not None:
                reply.stream.send(response.encode())
            reply.stream.is_done = True
            await reply.end()
        elif response is None:
            await responder.respond(202)
        else:
            headers = [*_JSON, *_extra(x)]
            if x.message.method == "initialize" and x.session is not None and response.result is not None:  # type: ignore[union-attr]
                headers.append(("mcp-session-id", x.session.record.id))
            await responder.respond(status, headers, response.encode())

    async def _listen(self, x: Exchange) -> tuple[Response | None, int]:
        """A listen ends in order when the process drains (mcp-eras section 3, listen end)."""
        answer = asyncio.ensure_future(self._answer(x))
        try:
            await _first(answer, self._draining)
            if answer.done():
                return answer.result()
            return m.result(x.request.id, {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: x.request.id}}), 200
        finally:
            answer.cancel("the bridge ends")

    async def _answer(self, x: Exchange) -> tuple[Response | None, int]:
        """The exchange's response and its HTTP status; every failure becomes a JSON-RPC error."""
        id = x.message.id if isinstance(x.message, Request) else None
        legacy = x.caller.era == "legacy"
        try:
            response = await self._front(x)
        except BridgeError as error:
            x.notes["challenge"] = error.data.pop("challenge", None)
            x.notes["retry_after"] = error.fault.status in (429, 503)
            return m.error(id, to_wire(error)), error.fault.legacy_status if legacy else error.fault.status
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            _log.error(
                "request failed inside the bridge", protocol="http", method=x.view.method, error=repr(error), exc_info=True
            )
            return m.error(id, to_wire(BridgeError("internal_error"))), 500
        if response is None or response.error is None or legacy:
            return response, 200
        return response, _status(response.error)

    # GET and DELETE: operations on a legacy session

    async def _session_op(self, request: HttpRequest, responder: Responder, target: Target) -> None:
        id = request.headers.get("mcp-session-id")
        if id is None:
            await responder.respond(405, [("allow", "POST")], b"")
            return
        op = SessionOp("GET" if request.method == "GET" else "DELETE")
        caller = Caller("http", "legacy", request.peer, request.headers)
        x = Exchange(op, View(op.method), caller, _NOBODY, self._new_deadline(), target, session_id=id)
        x.open_back = lambda _record: HttpSession()
        if op.method == "GET" and "text/event-stream" not in (request.headers.get("accept") or ""):
            await _refuse(responder, None, BridgeError("invalid_request", "Accept must list text/event-stream"), 406)
            return
        response, status = await self._answer(x)
        if response is not None:
            await responder.respond(status, [*_JSON, *_extra(x)], response.encode())
        elif op.method == "DELETE":
            await responder.respond(200)
        else:
            assert x.session is not None and isinstance(x.session.back, HttpSession)
            await self._stream(x.session.back, request, responder)

    async def _stream(self, session: HttpSession, request: HttpRequest, responder: Responder) -> None:
        """Serve a GET stream until the client or the session ends. A second GET stream takes the place of the first."""
        number, after = GENERAL, -1
        last = request.headers.get("last-event-id")
        if last is not None:
            place = position(last)
            if place is None or place[0] not in session.streams:
                await _refuse(responder, None, BridgeError("invalid_request", "unknown Last-Event-ID"), 400)
                return
            number, after = place
        stream = session.streams[number]
        previous = stream.responder
        gone = asyncio.Event()
        responder.on_gone = gone.set
        await responder.start(200, _SSE)
        if last is None:
            responder.send(stream.prime())
        stream.take(responder, after)
        if previous is not None and previous is not responder:
            await previous.end()
        try:
            ends = (gone, session.closed, self._draining)
            while not (any(end.is_set() for end in ends) or stream.is_done or stream.responder is not responder):
                await _first(*ends, timeout=KEEP_ALIVE)
                stream.write(_KEEP_ALIVE)
        finally:
            if stream.responder is responder:
                stream.responder = None
        if not gone.is_set():
            await responder.end()

    def _new_deadline(self) -> Deadline:
        return Deadline(self._deadline, asyncio.get_running_loop().time())


class ModernReply:
    """Notifications turn the answer into an SSE stream; a question cannot be asked in the modern era."""

    can_ask = False

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._beat: asyncio.TimerHandle | None = None

    def notify(self, notification: Notification) -> None:
        if not self._responder.started:
            self._responder.start_now(200, _SSE)
        self._responder.send(encode_event(notification.encode()))

    def keep_alive(self) -> None:
        """Comments on a long silent stream, so that proxies in between do not end it; until ``finish``."""
        if self._responder.started:
            self._responder.send(_KEEP_ALIVE)
        self._beat = asyncio.get_running_loop().call_later(KEEP_ALIVE, self.keep_alive)

    def finish(self) -> None:
        if self._beat is not None:
            self._beat.cancel()

    async def ask(self, request: Request) -> Response:
        raise LookupError("a modern client is not asked")


class LegacyReply:
    """JSON if the answer is fast and alone; else the POST becomes a logged stream that outlives its connection."""

    def __init__(self, x: Exchange, responder: Responder, accepts_stream: bool) -> None:
        self._x = x
        self._responder: Responder | None = responder
        self._accepts_stream = accepts_stream
        self._timer: asyncio.TimerHandle | None = None
        self._is_answered = False
        self.stream: Stream | None = None

    @property
    def can_ask(self) -> bool:
        return self._accepts_stream and self._session() is not None

    def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._accepts_stream and self._x.message.method != "initialize":  # type: ignore[union-attr]
            self._timer = loop.call_later(FAST_ANSWER, self._open)

    def notify(self, notification: Notification) -> None:
        stream = self._open()
        if stream is not None:
            stream.send(notification.encode())

    async def ask(self, request: Request) -> Response:
        session, stream = self._session(), self._open()
        if session is not None and self._is_answered:
            stream = session.streams[GENERAL]
            if stream.responder is None:
                raise BridgeError("stream_closed", "the call that the question belongs to was answered already", sent=False)
        if session is None or stream is None:
            raise BridgeError(
                "unsupported_across_eras", "this client does not read a stream, so it cannot be asked", sent=False
            )
        return await session.ask(request, self, stream)

    def gone(self) -> None:
        """The client went away; the call runs on and its answer waits in the log (decision 3)."""
        self._responder = None
        stream = self._open()
        if stream is not None:
            stream.responder = None

    def finish(self) -> None:
        """The call is over: its stream, when it has one, takes nothing but its answer."""
        self._is_answered = True
        if self._timer is not None:
            self._timer.cancel()

    async def end(self) -> None:
        if self._responder is not None and self.stream is not None and self.stream.responder is self._responder:
            self.stream.responder = None  # nobody reads it any more; whoever resumes it gets its log
            await self._responder.end()

    async def close(self) -> None:
        """End the POST without an answer."""
        self._open()
        if self.stream is not None:
            self.stream.is_done = True
        if self._responder is not None and self._responder.started:
            await self._responder.end()
        elif self._responder is not None:
            await self._responder.respond(202)

    def _open(self) -> Stream | None:
        session = self._session()
        if self.stream is None and session is not None and self._accepts_stream and not self._is_answered:
            self.stream = session.open_stream()
            if self._responder is not None:
                self._responder.start_now(200, _SSE)
                self._responder.send(self.stream.prime())
                self.stream.responder = self._responder
        return self.stream

    def _session(self) -> HttpSession | None:
        back = self._x.session.back if self._x.session is not None else None
        return back if isinstance(back, HttpSession) else None


def _extra(x: Exchange) -> list[tuple[str, str]]:
    headers = []
    if x.notes.get("challenge"):
        headers.append(("www-authenticate", x.notes["challenge"]))
    if x.notes.get("retry_after"):
        headers.append(("retry-after", "1"))
    return headers


def _status(error: Raw) -> int:
    """HTTP status of a JSON-RPC error that a server answered a modern client; an unreadable one has no status of its own."""
    try:
        code = bytes(members(error).get("code") or b"")
    except BridgeError:
        return 200
    return status_of(int(code), legacy=False) if _CODE(code) else 200


async def _refuse(responder: Responder, id: m.RequestId | None, error: BridgeError, status: int) -> None:
    await responder.respond(status, _JSON, m.error(id, to_wire(error)).encode())


async def _first(*ends: asyncio.Event | asyncio.Future[Any], timeout: float | None = None) -> None:
    """Until one of the events is set or one of the futures done, or the time is over. Futures go on."""
    events = [asyncio.ensure_future(end.wait()) for end in ends if isinstance(end, asyncio.Event)]
    futures = [end for end in ends if not isinstance(end, asyncio.Event)]
    try:
        await asyncio.wait([*events, *futures], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for event in events:
            event.cancel()
