"""What a legacy HTTP client's session holds in this process: its streams, their event log, and open questions.

    stream 0      the GET stream: what belongs to no call
    stream n      one POST that needed a stream: notifications, questions, the answer

Every event is logged before it is sent; `Last-Event-ID` names stream and number, and only that stream is replayed.

Source: MCP 2025-11-25 "Resumability and redelivery"; mcp-eras section 1.3; shared decision 3.
"""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Raw

from mcpbridge.core.exchange import Reply
from mcpbridge.core.peer import answered, incoming, outgoing
from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1.server import Responder
from mcpbridge.wire.message import Notification, Request, Response, loads
from mcpbridge.wire.sse import encode_event

GENERAL = 0
MAX_QUESTIONS = 100  # open questions of one client


class Stream:
    """One SSE stream of a session: alive while its POST runs or its GET is open, replayable until the log forgets it."""

    def __init__(self, session: HttpSession, number: int) -> None:
        self.number = number
        self.responder: Responder | None = None
        self.is_done = False
        self._session = session
        self._events = 0

    def send(self, data: bytes) -> None:
        """Log one message as an event, then send it if the client is there."""
        self._events += 1
        event = encode_event(data, id=f"{self.number}-{self._events}")
        self._session.log(self.number, self._events, event)
        self.write(event)

    def prime(self) -> bytes:
        """The first event: an id to resume from and no data (SEP-1699)."""
        return encode_event(b"", id=f"{self.number}-0")

    def write(self, data: bytes) -> None:
        if self.responder is not None:
            try:
                self.responder.send(data)
            except ConnectionError:
                self.responder = None

    def take(self, responder: Responder, after: int) -> None:
        """The client is (again) reading this stream from event ``after`` on."""
        self.responder = responder
        for event in self._session.logged(self.number, after):
            self.write(event)


class HttpSession:
    """BackChannel of one legacy HTTP client. ``max_log_bytes`` bounds the events kept for all its streams."""

    def __init__(self, max_log_bytes: int = 1_048_576) -> None:
        self._max_log_bytes = max_log_bytes
        self._log: deque[tuple[int, int, bytes]] = deque()
        self._log_bytes = 0
        self._last_stream = 0
        self._last_question = 0
        self._questions: dict[int, tuple[Request, Reply, asyncio.Future[Response]]] = {}
        self.streams: dict[int, Stream] = {GENERAL: Stream(self, GENERAL)}
        self.closed = asyncio.Event()

    def open_stream(self) -> Stream:
        """A stream for one POST."""
        self._last_stream += 1
        stream = self.streams[self._last_stream] = Stream(self, self._last_stream)
        return stream

    def notify(self, notification: Notification) -> None:
        self.streams[GENERAL].send(notification.encode())

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
        return any(stream.responder is not None for stream in self.streams.values())

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
        for _request, _reply, future in self._questions.values():
            if not future.done():
                future.set_exception(BridgeError("session_unknown", "the session has ended"))

    # The event log

    def log(self, stream: int, number: int, event: bytes) -> None:
        self._log.append((stream, number, event))
        self._log_bytes += len(event)
        while self._log_bytes > self._max_log_bytes and len(self._log) > 1:
            _stream, _number, oldest = self._log.popleft()
            self._log_bytes -= len(oldest)
        done = [n for n, s in self.streams.items() if s.is_done and n != GENERAL]
        for n in done[:-64]:  # finished streams stay resumable for a while, not for ever
            del self.streams[n]

    def logged(self, stream: int, after: int) -> list[bytes]:
        return [event for s, number, event in self._log if s == stream and number > after]

    def _best_stream(self) -> Stream:
        general = self.streams[GENERAL]
        if general.responder is not None:
            return general
        read = [s for s in self.streams.values() if s.responder is not None and not s.is_done]
        return read[-1] if read else general


def position(last_event_id: str) -> tuple[int, int] | None:
    """``(stream, event)`` of a Last-Event-ID that we made; None for any other text."""
    stream, dash, number = last_event_id.partition("-")
    if dash and stream.isdecimal() and number.isdecimal() and len(last_event_id) <= 40:
        return int(stream), int(number)
    return None


def _raw(value: int) -> Raw:
    return Raw(str(value).encode())
