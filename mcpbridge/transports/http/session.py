"""What a legacy HTTP client's session holds in this process: its streams, their event log, and open questions.

    general stream   the GET stream: what belongs to no call
    every other      one POST that needed a stream: notifications, questions, the answer

An event's id is ``<key>.<number>``: the key of its stream is random, so an id says nothing to anybody else and means nothing in
another session. `Last-Event-ID` names stream and number, and only that stream is replayed.

Source: MCP 2025-11-25 "Resumability and redelivery"; mcp-eras section 1.3; shared decision 3.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from secrets import token_urlsafe

from msgspec import Raw

from mcpbridge.core.events import EventLog
from mcpbridge.core.exchange import Reply
from mcpbridge.core.peer import answered, incoming, outgoing
from mcpbridge.core.session import Session
from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1.server import Responder
from mcpbridge.wire.message import Notification, Request, Response, loads
from mcpbridge.wire.sse import encode_event

MAX_QUESTIONS = 100  # open questions of one client
MAX_DONE = 1000  # finished streams whose log can still be asked for
PRIMED = frozenset({"2025-11-25"})  # versions whose clients know events without data
RETRY_MS = 1000  # milliseconds a client waits before it comes back to a broken stream
_ID = re.compile(r"([A-Za-z0-9_-]{12})\.([0-9]{1,15})").fullmatch


class Stream:
    """One SSE stream of a session: alive while its POST runs or its GET is open, replayable until the log forgets it."""

    def __init__(self, session: HttpSession) -> None:
        self.key = token_urlsafe(9)
        self.responder: Responder | None = None
        self.last = 0  # number of the newest event
        self.delivered = 0  # the newest event somebody was there for
        self.is_done = False
        self.is_known = False  # the client has seen an id of it
        self.turned = asyncio.Event()  # set when it is done or has got another reader
        self._taker: Responder | None = None
        self._session = session

    def send(self, data: bytes) -> None:
        """Log one message as an event, then send it if the client is there."""
        self.last += 1
        event = encode_event(data, id=f"{self.key}.{self.last}")
        self._session.log.append(self.key, self.last, event)
        if self.write(event):
            self.delivered = self.last
            self.is_known = True

    def prime(self, after: int) -> bytes:
        """The first event of a connection: an id to resume from and no data (SEP-1699); nothing for older clients."""
        if self._session.record.version not in PRIMED:
            return b""
        self.is_known = True
        return encode_event(b"", id=f"{self.key}.{after}", retry=RETRY_MS)

    def write(self, data: bytes) -> bool:
        """Send bytes to whoever reads; whether anybody did."""
        responder = self.responder
        if responder is None or responder.gone:
            return False
        try:
            responder.send(data)
        except ConnectionError:
            self.responder = None
            return False
        return True

    async def can_resume(self, after: int) -> bool:
        """Whether event ``after`` was sent and what came after it is not lost altogether."""
        if after > self.last:
            return False
        return not self.is_done or after == self.last or bool(await self._session.log.after(self.key, after))

    async def take(self, responder: Responder, after: int) -> None:
        """The client is (again) reading this stream from event ``after`` on; who read it before is sent away."""
        previous, self.responder, self._taker = self.responder, None, responder
        self.turned.set()
        self.is_known = True
        if previous is not None and previous is not responder and previous.started:
            await previous.end()
        while after < self.last and self._taker is responder:
            events = await self._session.log.after(self.key, after)
            for number, event in events:
                responder.send(event)
                after = self.delivered = max(self.delivered, number)
            if not events:
                break  # the rest is forgotten
        if self._taker is responder:
            self.responder = responder

    def release(self, responder: Responder) -> None:
        """``responder`` reads no more."""
        if self._taker is responder:
            self._taker = None
        if self.responder is responder:
            self.responder = None

    def finish(self) -> None:
        """Nothing more will come on it."""
        if not self.is_done:
            self.is_done = True
            self.turned.set()
            self._session.finished(self)


class HttpSession:
    """BackChannel of one legacy HTTP client."""

    def __init__(self, record: Session, log: EventLog) -> None:
        self.record = record
        self.log = log
        self._last_question = 0
        self._questions: dict[int, tuple[Request, Reply, asyncio.Future[Response]]] = {}
        self.general = Stream(self)
        self._open: dict[str, Stream] = {self.general.key: self.general}
        self._done: dict[str, Stream] = {}
        self._order: deque[str] = deque()
        self.closed = asyncio.Event()

    def open_stream(self) -> Stream:
        """A stream for one POST."""
        stream = Stream(self)
        self._open[stream.key] = stream
        return stream

    def finished(self, stream: Stream) -> None:
        """Finished streams stay resumable for a while, not for ever."""
        self._open.pop(stream.key, None)
        if not stream.is_known:
            return  # nobody ever learnt a name for it
        self._done[stream.key] = stream
        self._order.append(stream.key)
        while len(self._order) > MAX_DONE:
            del self._done[self._order.popleft()]

    def find(self, last_event_id: str) -> tuple[Stream, int] | None:
        """Stream and number that an event's id names; None for an id that is none of this session's."""
        match = _ID(last_event_id)
        if match is None:
            return None
        stream = self._open.get(match[1]) or self._done.get(match[1])
        return None if stream is None else (stream, int(match[2]))

    def notify(self, notification: Notification) -> None:
        self.general.send(notification.encode())

    async def ask(self, request: Request, reply: Reply, stream: Stream | None = None) -> Response:
        """Put a question on ``stream``, else on the GET stream, else on the newest POST that is still read."""
        if len(self._questions) >= MAX_QUESTIONS:
            raise BridgeError("queue_full", "too many open questions to this client", sent=False)
        self._last_question += 1
        id = self._last_question
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._questions[id] = (request, reply, future)
        try:
            (stream or self._best_stream()).send(outgoing(request, id).encode())
            return answered(await future, request)
        except asyncio.CancelledError:
            if not self.closed.is_set():
                note = Notification("notifications/cancelled", {"requestId": _raw(id)})
                (stream or self._best_stream()).send(note.encode())
            raise
        finally:
            self._questions.pop(id, None)

    @property
    def is_listening(self) -> bool:
        return any(stream.responder is not None for stream in self._open.values())

    def answered(self, response: Response) -> None:
        question = self._questions.get(response.id) if isinstance(response.id, int) else None
        if question is not None and not question[2].done():
            question[2].set_result(response)

    def progressed(self, notification: Notification) -> bool:
        token = notification.param("progressToken")
        id = loads(token) if token is not None else None
        question = self._questions.get(id) if isinstance(id, int) else None
        if question is None:
            return False
        question[1].notify(incoming(notification, question[0]))
        return True

    def close(self) -> None:
        self.closed.set()
        self.log.close()
        for _request, _reply, future in self._questions.values():
            if not future.done():
                future.set_exception(BridgeError("session_unknown", "the session has ended"))

    def _best_stream(self) -> Stream:
        if self.general.responder is not None:
            return self.general
        read = [stream for stream in self._open.values() if stream.responder is not None]
        return read[-1] if read else self.general


def _raw(value: int) -> Raw:
    return Raw(str(value).encode())
