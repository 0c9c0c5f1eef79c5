"""One connection to an HTTP server, and the answer it is giving.

    send(head, body) ──► ClientConnection ──► HttpResponse      read() whole | chunks() as they come | aclose()

Doubt closes: bytes nobody asked for, before or behind an answer, end the connection. Reading pauses while the reader of an
answer lies behind.

Source: architecture section 5; RFC 9112 sections 4, 6, 7, 9; reliability table 3 rows 9-11.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Final, cast

from mcpbridge.errors import BridgeError
from mcpbridge.wire.chunked import ChunkedBody
from mcpbridge.wire.http1 import Headers, HeadReader, HttpError, ResponseHead, parse_response

MAX_HEAD: Final = 65536  # bytes of one response head
MAX_INTERIM: Final = 16  # 1xx answers before the answer
READ_AHEAD: Final = 262144  # bytes of an answer held for its reader, then reading pauses
SMALL: Final = 65536  # a body up to this is waited for with its head: one wake-up instead of two


class HttpResponse:
    """An answer whose head has come. Read it, or close it; what is not read to its end costs the connection."""

    __slots__ = ("_connection", "_error", "_held", "_limit", "_pieces", "_wanted", "complete", "headers", "length", "status")

    def __init__(self, head: ResponseHead, connection: ClientConnection, limit: int) -> None:
        self.status: int = head.status
        self.headers: Headers = head.headers
        self.length = head.length  # bytes announced; None when not
        self.complete = False  # the whole body has come
        self._limit = limit
        self._connection = connection
        self._pieces: list[bytes] = []
        self._held = 0  # bytes in pieces
        self._wanted: asyncio.Future[None] | None = None
        self._error: BridgeError | None = None

    async def read(self) -> bytes:
        """The whole body.

        Raises BridgeError: "answer_too_large" over ``max_response`` bytes, "stream_closed" or "bad_answer" when cut or broken.
        """
        if self.complete and self._held <= self._limit:
            pieces, self._pieces = self._pieces, []
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if (self.length or 0) > self._limit or self._held > self._limit:
            self._refuse_size()
        parts: list[bytes] = []
        total = 0
        async for piece in self.chunks():
            parts.append(piece)
            total += len(piece)
            if total > self._limit:
                self._refuse_size()
        return b"".join(parts)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body as it comes, unlimited in sum; the server is slowed to the pace of the reader.

        Raises BridgeError "stream_closed" or "bad_answer" when the body is cut or broken. Leaving early closes the connection.
        """
        try:
            while True:
                pieces, self._pieces, self._held = self._pieces, [], 0
                if pieces:
                    if not self.complete:
                        self._connection.resume()
                    yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
                elif self.complete:
                    return
                elif self._error is not None:
                    raise self._error
                else:
                    self._wanted = asyncio.get_running_loop().create_future()
                    await self._wanted
        finally:
            self._wanted = None
            await self.aclose()

    async def aclose(self) -> None:
        """Give the answer up: an incomplete one ends the connection. Idempotent."""
        if not self.complete and self._error is None:
            self._fail(BridgeError("stream_closed", "the answer was given up"))
            self._connection.abort()

    def _take(self, piece: bytes) -> bool:
        """A part of the body. Returns False when enough is held for now."""
        self._pieces.append(piece)
        self._held += len(piece)
        self._wake()
        return self._held < READ_AHEAD

    def _finish(self) -> None:
        self.complete = True
        self._wake()

    def _fail(self, error: BridgeError) -> None:
        self._error = error
        self._wake()

    def _wake(self) -> None:
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)

    def _refuse_size(self) -> None:
        self._pieces = []
        if not self.complete:
            self._connection.abort()
        error = BridgeError("answer_too_large", f"more than {self._limit} bytes")
        self._fail(error)
        raise error


class ClientConnection(asyncio.Protocol):
    """One exchange at a time. ``on_free`` is told after each whether another may follow; False comes once and is the end."""

    def __init__(self, on_free: Callable[[ClientConnection, bool], None]) -> None:
        self.idle_since = 0.0  # kept by the pool: monotonic seconds of its newest answer
        self.used_at = 0.0  # likewise, of the newest that somebody wanted
        self.born = 0.0
        self.is_reused = False
        self.was_turned_away = False  # its first words, before any request, were 429
        self.keep_alive_timeout: float | None = None  # seconds the server said it waits
        self.answered = False  # a byte of an answer to the present request has come
        self._on_free = on_free
        self._transport: asyncio.Transport
        self._is_busy = False
        self._is_lost = False  # no further request may be sent
        self._has_retired = False  # the pool knows
        self._is_paused = False
        self._waiting: asyncio.Future[HttpResponse] | None = None
        self._response: HttpResponse | None = None
        self._head: ResponseHead | None = None
        self._heads = HeadReader(parse_response)
        self._buffer = b""
        self._chunks: ChunkedBody | None = None
        self._left = 0  # bytes of a body with Content-Length still to come; -1: until close
        self._interim = 0
        self._for_head = False
        self._limit = 0

    def is_usable(self) -> bool:
        """Whether a request may be sent: connected, and nothing came unasked."""
        return not (self._is_lost or self._is_busy or self._transport.is_closing())

    def send(self, request: bytes, *, for_head: bool, limit: int) -> asyncio.Future[HttpResponse]:
        """Write a whole request. The future gives the response once its head has come, or a BridgeError.

        ``for_head``: the request is a HEAD, whose answer has no body. ``limit`` bounds ``HttpResponse.read``, in bytes.
        """
        self._is_busy = True
        self.answered = False
        self._for_head = for_head
        self._limit = limit
        self._interim = 0
        waiting = self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return waiting

    def abort(self) -> None:
        """Cut the connection; an exchange under way fails."""
        self._transport.abort()
        self._end(BridgeError("stream_closed", "connection cut"))

    def close(self) -> None:
        """Close an idle connection."""
        self._transport.close()
        self._retire()

    def resume(self) -> None:
        """The reader of the answer has caught up."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    # -- what the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._is_busy:
            self.was_turned_away = not self.is_reused and data.startswith(b"HTTP/1.1 429 ")
            self._transport.abort()  # bytes nobody asked for would be taken for the next answer
            self._retire()
            return
        self.answered = True
        try:
            if self._response is None:
                self._buffer = self._buffer + data if self._buffer else data
                self._read_head()
            else:
                self._read_body(data)
        except HttpError as error:
            self._transport.abort()
            self._end(BridgeError("bad_answer", error.detail))

    def eof_received(self) -> bool:
        if self._response is not None and self._left < 0:
            self._complete(reusable=False)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None and self._left < 0 and exc is None:
            self._complete(reusable=False)
        detail = "the server closed the connection" + ("" if self.answered else " without an answer")
        self._end(BridgeError("stream_closed", f"{detail} ({exc})" if exc else detail))

    # -- reading

    def _read_head(self) -> None:
        while True:
            data = self._buffer
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > MAX_HEAD:
                if not (data.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(data)):
                    raise HttpError(502, "the answer is not HTTP/1.1")
                if len(data) > MAX_HEAD:
                    raise HttpError(502, "response header too large")
                return
            head = self._heads.read(data[:end])
            self._buffer = data[end:]
            if head.status >= 200:
                break
            self._interim += 1
            if head.status == 101 or self._interim > MAX_INTERIM:
                raise HttpError(502, "an upgrade nobody asked for" if head.status == 101 else "too many interim answers")
        self._begin_body(head)

    def _begin_body(self, head: ResponseHead) -> None:
        self._head = head
        self._response = HttpResponse(head, self, self._limit)
        rest, self._buffer = self._buffer, b""
        if self._for_head or head.status in (204, 304):
            self._left = 0
        elif head.chunked:
            self._left = 1
            self._chunks = ChunkedBody(response=True)
        else:
            self._left = -1 if head.length is None else head.length
        if self._left == 0:
            self._complete(reusable=not rest)
        elif rest:
            self._read_body(rest)
        # A small body that is not here yet is waited for: its reader would wake up only to wait again.
        if self._waiting is not None and not 0 < (head.length or 0) <= SMALL:
            self._announce()

    def _read_body(self, data: bytes) -> None:
        response = cast(HttpResponse, self._response)
        if self._chunks is not None:
            enough = True
            for piece in self._chunks.feed(data):
                enough = response._take(piece)
            if self._chunks.done:
                self._complete(reusable=not self._chunks.rest)
            elif not enough:
                self._pause()
        elif self._left < 0:
            if not response._take(data):
                self._pause()
        elif len(data) < self._left:
            self._left -= len(data)
            if not response._take(data):
                self._pause()
        else:
            response._take(data[: self._left])
            self._complete(reusable=len(data) == self._left)

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _announce(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(cast(HttpResponse, self._response))

    def _complete(self, *, reusable: bool) -> None:
        response, head = cast(HttpResponse, self._response), cast(ResponseHead, self._head)
        response._finish()
        self._announce()
        self._response = None
        self._chunks = None
        self._is_busy = False
        self.keep_alive_timeout = head.keep_alive_timeout
        if self._transport.get_write_buffer_size():
            # The server answered before it took the whole request: it would read the rest as the next one.
            self._transport.abort()
            self._retire()
        elif reusable and head.keep_alive and not self._transport.is_closing():
            self.resume()
            self._on_free(self, True)
        else:
            self._transport.close()
            self._retire()

    def _retire(self) -> None:
        self._is_lost = True
        if not self._has_retired:
            self._has_retired = True
            self._on_free(self, False)

    def _end(self, error: BridgeError) -> None:
        """The connection is over: whoever waits for it learns why. Idempotent."""
        self._is_busy = False
        waiting, self._waiting = self._waiting, None
        response, self._response = self._response, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        if response is not None and response._error is None:
            response._fail(error)
        self._retire()
