"""One client connection of the HTTP/1.1 server.

    head ──► body (length | chunked) ──► running ──► head ...      one request at a time, in order
      │              │                 └── upgraded (``upgrade.Handover``)
      └──────────────┴── refused ──► lingering ──► closed          what follows a refused message is never read as a request

No timers of its own: the server calls ``sweep`` once a second. Everything a peer can make grow has a limit here.

Source: architecture section 5; reliability section 1 (limits), table 2 rows 16 and 23, table 3 rows 16 and 17.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal, cast

from mcpbridge.observe.log import log
from mcpbridge.transports.http1.pace import WRITE_WINDOW, Backlog, IncomingBody
from mcpbridge.transports.http1.request import REQUEST_ID, HttpRefusal, HttpRequest, Responder, request_id
from mcpbridge.transports.http1.upgrade import Handover, Talk, Upgraded
from mcpbridge.wire.http1 import (
    CONTINUE,
    MAX_REQUEST_LINE,
    HeadReader,
    HttpError,
    RequestHead,
    encode_fields,
    parse_request,
    status_line,
)
from mcpbridge.wire.sniff import sniff

if TYPE_CHECKING:
    from mcpbridge.transports.http1.server import HttpServer

READ_AHEAD: Final = 65536  # bytes read while a request runs, then reading pauses
LINGER_TIME: Final = 5.0  # seconds a refused client may go on sending, so that it reads the answer before a reset
LINGER_BYTES: Final = 8 * 1024 * 1024

State = Literal["head", "body", "running", "lingering", "closed"]

_log = log("http1")


@lru_cache(maxsize=64)
def _one_field(field: tuple[str, str]) -> bytes:
    """Nearly every answer has one field of its own, its content type: proven once."""
    return encode_fields((field,))


class ServerConnection(asyncio.Protocol):
    """Frames requests, runs one at a time, keeps the peer within its limits."""

    def __init__(self, server: HttpServer, *, tls: bool, key: str | None = None) -> None:
        """``key`` is the address key when the server has already counted this connection (TLS: before the handshake)."""
        self._server = server
        self._tls = tls
        self.key = key
        self._state: State = "head"
        self._fresh = True  # nothing was read yet
        self._has_begun = False  # a part of a head is in the buffer
        self._buffer = b""
        self._incoming: IncomingBody | None = None
        self._backlog: Backlog | None = None  # while the write buffer is full
        self._head: RequestHead | None = None
        self._id = ""  # of the request that is being read or answered
        self._heads = HeadReader(parse_request)
        self._since = server.now  # when the present state began, as far as a limit depends on it
        self._written = 0
        self._ignored = 0  # bytes thrown away while lingering
        self._peer = ""
        self._port = 0
        self._responder: Responder | None = None
        self._handover: Handover | None = None
        self._task: asyncio.Task[None] | None = None
        self._close_after = False
        self._read_paused = False
        self._drainers: list[asyncio.Future[None]] = []
        self._transport: asyncio.Transport

    # -- what the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self._peer, self._port = peer[0], peer[1]
        status = self._server.adopt(self, self._peer)
        if status:
            self._refuse(status, self._server.limits.words(status), [("retry-after", "1")])

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state == "head":
            self._buffer = self._buffer + data if self._buffer else data
            self._read_requests()
        elif state == "body":
            self._read_body(data)
        elif state == "running":
            self._buffer += data
            if len(self._buffer) > READ_AHEAD:
                self._pause_reading()
        elif state == "lingering":
            self._ignored += len(data)
            if self._ignored > LINGER_BYTES:
                self._transport.abort()

    def eof_received(self) -> bool:
        if self._state == "running":
            self._lose_client()
            self._transport.abort()
        else:
            self._set_closed()
        return False  # the transport flushes and closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._state = "closed"
        self._buffer = b""
        self._incoming = None
        self._server.forget(self)
        self._lose_client()
        self._wake()

    def pause_writing(self) -> None:
        self._backlog = Backlog(self._server.now, self._written - self._transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        self._backlog = None
        self._wake()
        if self._state == "head" and self._buffer:
            self._read_requests()

    # -- reading

    def _read_requests(self) -> None:
        """Take heads off the buffer until a request runs or bytes are missing. Loops only over requests refused in place."""
        if self._fresh and not self._is_http():
            return
        while self._state == "head" and self._buffer:
            if self._backlog is not None:  # a pipelining client that does not read gets no more answers
                self._pause_reading()
                return
            data = self._buffer
            if data.startswith(b"\r\n"):
                data = self._buffer = data[2:]  # RFC 9112 2.2: one empty line before a request is forgiven
            end = data.find(b"\r\n\r\n") + 4
            if end > self._server.max_header or (end < 4 and len(data) > self._server.max_header):
                self._refuse(431, "header too large")
                return
            if end < 4:
                self._await_head(data)
                return
            raw = data[:end]
            self._buffer = data[end:]
            try:
                head = self._heads.read(raw)
            except HttpError as error:
                self._refuse(error.status, error.detail)
                return
            self._begin_request(head)
        self._resume_reading()

    def _is_http(self) -> bool:
        speech = sniff(self._buffer)
        if speech == "http":
            self._fresh = False
        elif speech == "more":
            self._start_head_timer()
        elif speech == "tls":
            self._server.say("a TLS client came to a port without TLS", self._peer)
            self._transport.abort()
        elif not self._hand_over():
            if b"\r\n\r\n" in self._buffer:
                self._fresh = False  # an unknown method, perhaps: the parser has the better answer
            else:
                self._refuse(400, "this port speaks HTTP/1.1")
        return not self._fresh

    def _hand_over(self) -> bool:
        """Offer a connection that is not HTTP to the ``sniff`` hook; whether it was taken."""
        transport, data = self._transport, self._buffer
        protocol = self._server.sniff(data) if self._server.sniff is not None else None
        if protocol is None:
            return False
        self._buffer = b""
        self._state = "closed"
        self._server.forget(self)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)
        return True

    def _start_head_timer(self) -> None:
        if not self._has_begun:  # the first byte of this head has come: from now on the header timeout counts
            self._has_begun = True
            self._since = self._server.now

    def _await_head(self, data: bytes) -> None:
        """A part of a head: see early that it will never be one, and start its clock."""
        eol = data.find(b"\n")
        if eol >= 0 and data[eol - 1 : eol] != b"\r":
            self._refuse(400, "bare line feed")
        elif eol < 0 and len(data) > MAX_REQUEST_LINE + 2:
            self._refuse(414, "request line too long")
        elif eol >= 0 and b" HTTP/" not in data[:eol]:
            self._refuse(400, "malformed request line")
        else:
            self._start_head_timer()
            self._resume_reading()

    def _begin_request(self, head: RequestHead) -> None:
        self._has_begun = False
        self._head = head
        self._id = request_id(head.headers.get(REQUEST_ID))
        rest = self._buffer
        try:
            limit = self._server.max_body if self._server.admit is None else self._server.admit(head, self._peer)
        except Exception as error:  # noqa: BLE001 - a broken admission must refuse, not let in
            _log.error("admission failed", exc=error, path=head.path)
            self._refuse(500, "internal error")
            return
        has_body = head.chunked or head.length > 0
        if isinstance(limit, HttpRefusal):
            self._decline(head, limit)
        elif has_body and head.headers.get("content-encoding", "identity") != "identity":
            self._refuse(415, "request bodies must not be encoded", [("accept-encoding", "identity")])
        elif head.length > limit:
            self._refuse(413, f"body larger than {limit} bytes")
        elif not has_body:
            self._run_request(b"")
        elif not head.chunked and len(rest) >= head.length:
            self._buffer = rest[head.length :]
            self._run_request(rest[: head.length])
        else:
            self._state = "body"
            self._incoming = IncomingBody(head, limit, self._server.now)
            self._buffer = b""
            if rest:
                self._read_body(rest)
            elif head.expects_continue:
                self.write(CONTINUE)

    def _read_body(self, data: bytes) -> None:
        incoming = cast(IncomingBody, self._incoming)
        try:
            body = incoming.feed(data)
        except HttpError as error:
            self._refuse(error.status, error.detail)
            return
        if body is not None:
            self._buffer = incoming.rest
            self._incoming = None
            self._run_request(body)

    # -- running

    def _run_request(self, body: bytes) -> None:
        head = cast(RequestHead, self._head)
        self._state = "running"
        responder = self._responder = Responder(self, head)
        request = HttpRequest(head, body, self._peer, self._port, self._tls, self._id)
        self._task = self._server.loop.create_task(self._run(request, responder))

    async def _run(self, request: HttpRequest, responder: Responder) -> None:
        server = self._server
        try:
            await server.handler(request, responder)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                self._task = None
                self._transport.abort()
                raise
            await self._fail(request, responder, None)  # not we were cancelled, but something the handler waited for
        except Exception as error:  # noqa: BLE001 - the barrier of one request: others go on
            await self._fail(request, responder, error)
        self._task = None
        if self._state == "running":
            if not responder.started and not responder.gone:
                await self._fail(request, responder, None)
            self._finish(responder)
        elif self._handover is not None:
            self._handover.begin()

    async def _fail(self, request: HttpRequest, responder: Responder, error: Exception | None) -> None:
        _log.error("request failed", exc=error, method=request.method, path=request.path)
        if not responder.started:
            await responder.respond(500, *self._server.explain(request.path, 500, "internal error", request.id))

    def _finish(self, responder: Responder) -> None:
        responder.on_gone = None  # whoever it tells knows the responder: the circle would be the collector's work
        self._responder = None
        self._head = None
        self._id = ""
        if not responder.ended:
            self._transport.abort()  # half an answer: only a cut connection tells the client
        elif self._close_after or self._server.lets_go:
            self._set_closed()
            self._transport.close()
        else:
            self._state = "head"
            self._since = self._server.now
            if self._buffer:
                self._read_requests()
            elif self._read_paused:
                self._resume_reading()

    def _lose_client(self) -> None:
        responder = self._responder
        if responder is None or responder.gone:
            return
        responder.gone = True
        self._wake()
        if responder.on_gone is not None:
            try:
                responder.on_gone()
            except Exception as error:  # noqa: BLE001 - the connection's cleanup must go on
                _log.error("on_gone failed", exc=error)
        elif self._task is not None and not responder.ended:
            self._task.cancel()

    # -- writing

    def answer_head(self, status: int, headers: Sequence[tuple[str, str]], length: int | None, keep_alive: bool) -> bytes:
        """The head of an answer. ``length`` None: chunked; -1: until close."""
        if not keep_alive or self._server.lets_go:
            self._close_after = True
        base = self._server.base_tls if self._tls else self._server.base
        head = b"%b%bx-request-id: %b\r\n" % (status_line(status), base, (self._id or request_id(None)).encode("ascii"))
        if headers:
            head += _one_field(headers[0]) if len(headers) == 1 else encode_fields(headers)
        if self._close_after:
            head += b"connection: close\r\n"
        if length is None:
            return head + b"transfer-encoding: chunked\r\n\r\n"
        if length < 0 or status in (204, 304):
            return head + b"\r\n"
        return b"%bcontent-length: %d\r\n\r\n" % (head, length)

    def upgrade(self, headers: Sequence[tuple[str, str]], successor: Upgraded, talk: Talk) -> None:
        """Answer 101 and give the transport away, with the bytes that have already come."""
        base = self._server.base_tls if self._tls else self._server.base
        fields = encode_fields([*headers, ("connection", "upgrade"), (REQUEST_ID, self._id)])
        self.write(status_line(101) + base + fields + b"\r\n")
        rest, self._buffer = self._buffer, b""
        self._state = "closed"
        self._responder = None
        self._resume_reading()
        self._handover = Handover(self._server, self._transport, successor, talk, self._task)
        self._server.replace(self, self._handover)
        self._transport.set_protocol(self._handover)
        successor.connection_made(self._transport)
        if rest:
            successor.data_received(rest)

    def write(self, data: bytes | memoryview) -> None:
        """Hand bytes to the transport."""
        self._written += len(data)
        self._transport.write(data)

    def write_stream(self, data: bytes) -> None:
        """Hand bytes of a stream to the transport, whose reader must not lie too far behind."""
        self.write(data)
        if self._transport.get_write_buffer_size() > self._server.max_buffer:
            self._drop("client reads too slowly")

    async def drain(self) -> None:
        """Wait until the write buffer is below its low-water mark or the connection is gone."""
        if self._backlog is not None and not self._transport.is_closing():
            waiter = self._server.loop.create_future()
            self._drainers.append(waiter)
            await waiter

    def _wake(self) -> None:
        waiters, self._drainers = self._drainers, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _drop(self, why: str) -> None:
        self._server.say(why, self._peer)
        self._transport.abort()
        self._lose_client()

    # -- refusing and closing

    def _decline(self, head: RequestHead, refusal: HttpRefusal) -> None:
        """Answer what ``admit`` refused; the connection lives on when the body is already here and can be skipped."""
        self._server.refused[refusal.status] += 1
        whole = not head.chunked and len(self._buffer) >= head.length
        if not whole or not head.keep_alive:
            self._refuse(refusal.status, "", refusal.headers, refusal.body, count=False, has_body=head.method != "HEAD")
            return
        self._buffer = self._buffer[head.length :]
        self._head = None
        answer = self.answer_head(refusal.status, refusal.headers, len(refusal.body), keep_alive=True)
        self.write(answer if head.method == "HEAD" else answer + refusal.body)
        self._id = ""
        self._since = self._server.now
        if self._close_after:
            self._set_closed()
            self._transport.close()

    def _refuse(
        self,
        status: int,
        detail: str,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        *,
        count: bool = True,
        has_body: bool = True,
    ) -> None:
        """Answer and close: after this message nothing on the connection can be trusted to start where it seems to."""
        if count:
            self._server.refused[status] += 1
        if body is None:
            self._id = self._id or request_id(None)
            path = self._head.path if self._head is not None else None
            more, body = self._server.explain(path, status, detail, self._id)
            headers = [*headers, *more]
        answer = self.answer_head(status, headers, len(body), keep_alive=False)
        self.write(answer + body if has_body else answer)
        self._buffer = b""
        self._incoming = None
        self._state = "lingering"
        self._since = self._server.now
        if self._server.linger(self):
            # Closing with unread bytes resets the connection, and a reset can take the answer away from its reader.
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._resume_reading()
        else:
            self._transport.close()

    def _set_closed(self) -> None:
        self._state = "closed"
        self._since = self._server.now

    def close_if_idle(self, since: float = float("inf")) -> None:
        """Close unless a request is being read, run or answered, or was after ``since``, in the server's time."""
        if self._state == "head" and not self._buffer and self._since <= since:
            self._set_closed()
            self._transport.close()

    def abort(self) -> asyncio.Task[None] | None:
        """Cut the connection and cancel its request, whose task is returned for awaiting."""
        task = self._task
        self._transport.abort()
        if task is not None:
            task.cancel()
        return task

    def _pause_reading(self) -> None:
        if not self._read_paused:
            self._read_paused = True
            with contextlib.suppress(RuntimeError):  # the transport is closing
                self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._read_paused:
            self._read_paused = False
            with contextlib.suppress(RuntimeError):
                self._transport.resume_reading()

    # -- time

    @property
    def is_active(self) -> bool:
        """Whether a request is being answered."""
        return self._state == "running"

    def sweep(self, now: float) -> None:
        """End what takes too long. Called about once a second with the loop's time in seconds."""
        state = self._state
        if state == "head":
            if self._has_begun:
                if now - self._since > self._server.header_timeout:
                    self._refuse(408, "header took too long")
            elif self._backlog is None and now - self._since > self._server.idle_timeout:
                self.close_if_idle()
        elif self._incoming is not None:
            if self._incoming.is_too_slow(now):
                self._refuse(408, "body came too slowly")
        elif state == "lingering":
            if now - self._since > LINGER_TIME:
                self._transport.abort()
        elif state == "closed" and now - self._since > WRITE_WINDOW:
            self._transport.abort()
        if self._backlog is not None:
            waiting = self._transport.get_write_buffer_size()
            if self._backlog.is_stuck(now, self._written - waiting, waiting):
                self._drop("client reads too slowly")
