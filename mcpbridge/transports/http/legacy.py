"""Legacy Streamable HTTP answers: plain JSON when fast and alone, else a logged stream that outlives its connection.

    POST  request        JSON within 1 s and without notifications or questions, else SSE
    POST  [batch]        2025-03-26 only: one array, or SSE with an event for each answer
    GET                  what belongs to no call
    GET  Last-Event-ID   one stream taken up again, then live; 400 and `event_unknown` for an id that names nothing kept

Every event is logged before it is sent. A client that goes away cancels nothing: the answer waits in the log. The first event
of a 2025-11-25 stream has an id and no data, and says after how many milliseconds to come back.

Source: mcp-eras section 1.3; shared decision 3; SEP-1699.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from mcpbridge.core.exchange import Exchange, NoReply, Reply
from mcpbridge.errors import BridgeError
from mcpbridge.transports.http.outcome import COMMENT, JSON, KEEP_ALIVE, SSE, Answer, extra, first, refuse
from mcpbridge.transports.http.session import HttpSession, Stream
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.wire.message import Notification, Request, Response

_NOBODY = NoReply()
FAST_ANSWER = 1.0  # seconds a legacy answer may take before its stream opens (decision 3)


async def answer_post(x: Exchange, request: HttpRequest, responder: Responder, answer: Answer, patience: Patience) -> None:
    """Answer the POST of one message."""
    reply = x.reply = LegacyReply(x, responder, reads_streams(request))
    if isinstance(x.message, Request):
        responder.on_gone = reply.gone
        if x.message.method != "initialize":
            reply.wait(patience)
    try:
        response, status = await answer(x)
    except asyncio.CancelledError:
        if x.cancel_reason is None:
            raise
        await _cancelled(x, reply, responder)
        return
    finally:
        reply.finish()
    if reply.stream is not None:
        if response is not None:
            reply.stream.send(response.encode())
        await reply.end()
    elif response is None:
        await responder.respond(202)
    else:
        headers = [*JSON, *extra(x)]
        if x.view.method == "initialize" and x.session is not None and response.result is not None:
            headers.append(("mcp-session-id", x.session.record.id))
        await responder.respond(status, headers, response.encode())


async def answer_batch(
    x: Exchange, parts: Sequence[Exchange], request: HttpRequest, responder: Responder, answer: Answer, patience: Patience
) -> None:
    """Answer the POST of a batch: its messages start in their order, and its answers stand in the order of their requests.

    ``x`` is the operation that found the session; every part has passed nothing yet.
    """
    reply = LegacyReply(x, responder, reads_streams(request))
    if any(isinstance(part.message, Request) for part in parts):
        responder.on_gone = reply.gone
        reply.wait(patience)

    async def run(part: Exchange) -> bytes | None:
        part.reply = reply
        response, _status = await answer(part)
        if response is None or not isinstance(part.message, Request):
            return None
        if reply.stream is None:
            return response.encode()
        reply.stream.send(response.encode())
        return None

    try:
        outcomes = await asyncio.gather(*(run(part) for part in parts), return_exceptions=True)
    finally:
        reply.finish()
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    answers = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    if reply.stream is not None:
        for encoded in answers:
            reply.stream.send(encoded)
        await reply.end()
    elif answers:
        await responder.respond(200, JSON, b"[" + b",".join(answers) + b"]")
    elif x.session is not None and x.session.closed:
        await _cancelled(x, reply, responder)
    else:
        await responder.respond(202)


async def serve_stream(session: HttpSession, request: HttpRequest, responder: Responder, draining: asyncio.Event) -> None:
    """Serve a GET until its client goes, another GET takes the stream over, or nothing more can come on it."""
    stream, after = session.general, session.general.delivered
    last = request.headers.get("last-event-id")
    if last is not None:
        place = session.find(last)
        if place is None or not await place[0].can_resume(place[1]):
            error = BridgeError("event_unknown", "nothing is kept after this Last-Event-ID")
            await refuse(responder, None, error, 400, request.id)
            return
        stream, after = place
    gone = asyncio.Event()
    responder.on_gone = gone.set
    await responder.start(200, SSE)
    if last is None:
        responder.send(stream.prime(after))
    await stream.take(responder, after)
    try:
        ends = (gone, session.closed, draining, stream.turned)
        while stream.responder is responder and not stream.is_done and not any(end.is_set() for end in ends[:3]):
            stream.turned.clear()
            await first(*ends, timeout=KEEP_ALIVE)
            if not stream.turned.is_set():
                stream.write(COMMENT)
    finally:
        stream.release(responder)
    if not gone.is_set():
        await responder.end()


def reads_streams(request: HttpRequest) -> bool:
    """Whether the client of this request takes an SSE answer."""
    return "text/event-stream" in (request.headers.get("accept") or "")


async def _cancelled(x: Exchange, reply: LegacyReply, responder: Responder) -> None:
    """The call was cancelled by its client: nothing more may be said about it, but its POST must end. A session that was
    ended is another matter: whoever still waits learns that it is gone."""
    if x.session is not None and x.session.closed and not responder.started:
        id = x.message.id if isinstance(x.message, Request) else None
        await refuse(responder, id, BridgeError("session_unknown", "the session has ended"), 404, x.caller.request_id)
    else:
        await reply.close()


class Patience:
    """Wakes the replies whose answer is slow. All wait equally long, so one timer, for the oldest of them, serves all."""

    __slots__ = ("_due", "_is_set")

    def __init__(self) -> None:
        self._due: dict[LegacyReply, float] = {}  # in the order of their monotonic times
        self._is_set = False

    def add(self, reply: LegacyReply) -> None:
        """``reply.wake`` is called after ``FAST_ANSWER`` seconds."""
        self._due[reply] = monotonic() + FAST_ANSWER
        if not self._is_set:
            self._is_set = True
            loop = asyncio.get_running_loop()
            loop.call_later(FAST_ANSWER, self._look, loop)

    def forget(self, reply: LegacyReply) -> None:
        """It is answered."""
        self._due.pop(reply, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = monotonic()
        while self._due:
            reply, due = next(iter(self._due.items()))
            if due - now >= 0.001:  # loops count in milliseconds
                loop.call_later(due - now, self._look, loop)
                return
            del self._due[reply]
            loop.call_soon(reply.wake, loop)
        self._is_set = False


class LegacyReply:
    """JSON if the answer is fast and alone; else the POST becomes a logged stream. One for each POST."""

    def __init__(self, x: Exchange, responder: Responder, accepts_stream: bool) -> None:
        """``x`` has, or will have, the session."""
        self._x: Exchange | None = x  # until the call is over: it holds its reply, and a circle is the collector's work
        self._ended: HttpSession | None = None  # afterwards: the session it had
        self._responder: Responder | None = responder
        self._accepts_stream = accepts_stream
        self._patience: Patience | None = None
        self._timer: asyncio.TimerHandle | None = None  # once the answer is slow
        self._is_answered = False
        self.stream: Stream | None = None

    @property
    def can_ask(self) -> bool:
        return self._accepts_stream and self._session() is not None

    def wait(self, patience: Patience) -> None:
        """Open the stream when the answer is slow, and keep it alive."""
        if self._accepts_stream:
            self._patience = patience
            patience.add(self)

    def notify(self, notification: Notification) -> None:
        stream = self._open()
        if stream is not None:
            stream.send(notification.encode())

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        session, stream = self._session(), self._open()
        if session is None or not self._accepts_stream:
            raise BridgeError(
                "unsupported_across_eras", "this client does not read a stream, so it cannot be asked", sent=False
            )
        if stream is None or self._is_answered or not (stream.is_known or stream.responder is not None):
            stream = session.general  # nobody reads, or can ever take up, the stream of this POST
            if self._is_answered and stream.responder is None:
                raise BridgeError("stream_closed", "the call that the question belongs to was answered already", sent=False)
        return await session.ask(request, asker or _NOBODY, stream)

    def gone(self) -> None:
        """The client went away; the call runs on and its answer waits in the log (decision 3)."""
        responder, self._responder = self._responder, None
        if self.stream is not None and responder is not None:
            self.stream.release(responder)

    def finish(self) -> None:
        """The call is over: its stream, when it has one, takes nothing but its answer."""
        self._is_answered = True
        if self._patience is not None:
            self._patience.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        self._ended, self._x = self._session(), None

    async def end(self) -> None:
        """The answer is on the stream: it is complete."""
        stream, responder = self.stream, self._responder
        if stream is None:
            return
        stream.finish()
        if responder is not None and stream.responder is responder:
            stream.release(responder)  # nobody reads it any more; whoever takes it up gets its log
            await responder.end()

    async def close(self) -> None:
        """End the POST without an answer."""
        if self._responder is not None and not self._responder.started:
            if self._accepts_stream and self._session() is not None:
                await self._responder.start(200, SSE)
                await self._responder.end()
            else:
                await self._responder.respond(202)
        if self.stream is not None:
            await self.end()

    def wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """The answer is slow, or has been for long."""
        if self._is_answered:
            return
        stream = self.stream
        if stream is None:
            self._open()
        else:
            stream.write(COMMENT)  # proxies in between end what is silent for long
        self._timer = loop.call_later(KEEP_ALIVE, self.wake, loop)

    def _open(self) -> Stream | None:
        session = self._session()
        responder = self._responder  # None: who went before the stream began knows no id of it, so it never begins
        if self.stream is None and session is not None and self._accepts_stream and responder and not self._is_answered:
            self.stream = session.open_stream()
            responder.start_now(200, SSE)
            responder.send(self.stream.prime(0))
            self.stream.responder = responder
        return self.stream

    def _session(self) -> HttpSession | None:
        if self._x is None:
            return self._ended
        back = self._x.session.back if self._x.session is not None else None
        return back if isinstance(back, HttpSession) else None
