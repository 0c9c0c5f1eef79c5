"""The server half of HTTP+SSE: a GET opens the stream that is the session, POSTs to its endpoint say what the client says.

    GET   {path}  {path}/{server}     sign-in, then the stream: endpoint, messages, now and then a comment
    POST  {path}/messages?session=ID  sign-in again, then 202; the answer is on the stream

The id of a session is a random name nobody can guess and belongs to the principal that opened the stream: to everybody else it
is unknown (404). Each message counts as what its own POST shows, token and scopes included. A modern request has no place here
and gets an error that says where it has one.

Source: MCP 2024-11-05 basic/transports; mcp-eras section 1.4; contract http.gateway.events, limit.auth.per-message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from secrets import token_urlsafe
from typing import Final
from urllib.parse import parse_qs

from mcpbridge.core.duplex import Admit, Arrival, Serve
from mcpbridge.core.exchange import ANONYMOUS
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.transports.http1.request import SLICE, HttpRequest, Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Request
from mcpbridge.wire.spec import classify
from mcpbridge.wire.sse import comment, encode_event

JSON: Final = ("content-type", "application/json")
SSE: Final = (
    ("content-type", "text/event-stream"),
    ("cache-control", "no-cache, no-transform"),
    ("x-accel-buffering", "no"),  # nginx would keep the events to itself
)
MAX_HELD: Final = 16 * 1024 * 1024  # bytes that wait for a client behind one large message; more: it is let go
FLUSH_TIME: Final = 2.0  # seconds the last messages have to leave

_posted: ContextVar[tuple[SseClient, Mapping[str, str]] | None] = ContextVar("posted", default=None)
"""Whose POST started this task, and its headers."""


class SseFrontend:
    """Serves the stream at ``path`` (and aliases its caller knows) and the POSTs below it.

    ``keep_alive``: seconds between two comments.
    """

    def __init__(
        self, serve: Serve, admit: Admit, recognize: Admit, *, path: str = "/events", keep_alive: float = 30.0
    ) -> None:
        """``admit`` is asked about each stream, ``recognize`` about each POST."""
        self._serve = serve
        self._admit = admit
        self._recognize = recognize
        self._messages = f"{path.rstrip('/')}/messages"
        self._keep_alive = keep_alive
        self._open: dict[str, tuple[str, SseClient]] = {}  # session id -> its principal and its stream

    async def handle_stream(self, request: HttpRequest, responder: Responder, server: str | None) -> None:
        """Answer the GET of a stream; returns when the client is gone. ``server``: the one it asked for, None for all."""
        if request.method != "GET":
            await responder.respond(405, [("allow", "GET")])
            return
        if not _takes_events(request.headers.get("accept")):
            await _refuse(request, responder, BridgeError("invalid_request", "Accept must list text/event-stream"), 406)
            return
        client = SseClient(responder, self._keep_alive)
        arrival = Arrival("sse", request.peer, _PostHeaders(client, request.headers), server)
        try:
            principal = await self._admit(arrival) or ANONYMOUS
        except BridgeError as error:
            await _refuse(request, responder, error)
            return
        id = token_urlsafe(32)
        self._open[id] = (principal.key, client)
        writing = asyncio.ensure_future(client.write())
        try:
            responder.start_now(200, SSE)
            client.say(f"{self._messages}?session={id}".encode(), event="endpoint")
            await self._serve(client, arrival)
        finally:
            del self._open[id]
            writing.cancel()
        if not client.is_cut:
            await responder.end()

    async def handle_post(self, request: HttpRequest, responder: Responder) -> None:
        """Answer the POST of one message."""
        if request.method != "POST":
            await responder.respond(405, [("allow", "POST")])
            return
        kind = (request.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind != "application/json":
            error = BridgeError("invalid_request", f"content type {kind[:80] or 'missing'!r}, application/json expected")
            await _refuse(request, responder, error, 415)
            return
        ids = parse_qs(request.query, max_num_fields=16).get("session", ()) if len(request.query) <= 1024 else ()
        owner, client = self._open.get(ids[0], ("", None)) if len(ids) == 1 else ("", None)
        try:
            principal = await self._recognize(Arrival("sse", request.peer, request.headers)) or ANONYMOUS
        except BridgeError as error:
            if client is not None and error.fault.status == 401:
                client.lose("its client is no longer signed in")
            await _refuse(request, responder, error)
            return
        if client is None or principal.key != owner or client.is_over:
            await _refuse(request, responder, BridgeError("session_unknown", "open the stream again"))
            return
        try:
            message = parse(request.body)
            era = classify(message, request.headers.get("mcp-protocol-version"))
        except BridgeError as error:
            await _refuse(request, responder, error)
            return
        await client.turn()
        if era == "legacy":
            _posted.set((client, request.headers))  # this task's, and that of all it starts
            client.hear(request.body)
        elif isinstance(message, Request):
            misplaced = BridgeError("invalid_request", "HTTP+SSE has no form in 2026-07-28; POST to /mcp")
            client.say(m.error(message.id, to_wire(misplaced)).encode())
        await responder.respond(202)


class SseClient:
    """One client as a Connection: its stream, and what its POSTs bring."""

    def __init__(self, responder: Responder, keep_alive: float) -> None:
        self.is_over = False  # nothing is taken any more
        self.is_cut = False  # it is gone, or must be: what was said last does not matter
        self._responder = responder
        self._keep_alive = keep_alive
        self._on_message: Callable[[bytes], None]
        self._on_close: Callable[[BaseException | None], None] = lambda _cause: None
        self._waiting: deque[bytes] = deque()  # a large message on its way, and what comes behind it
        self._held = 0  # bytes in it
        self._is_filled = asyncio.Event()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        self._taking = asyncio.Event()
        self._beat: asyncio.TimerHandle | None = None

    # Connection

    def start(self, on_message: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        self._on_message, self._on_close = on_message, on_close
        self._responder.on_gone = lambda: self.lose("the client closed the stream")
        self._taking.set()
        self._next_beat()
        if self._responder.gone:
            asyncio.get_running_loop().call_soon(self.lose, "the client closed the stream")

    def send(self, data: bytes) -> None:
        if self.is_over or self._responder.gone:
            raise ConnectionResetError("the stream has ended")
        self.say(data)

    async def drain(self) -> None:
        await self._is_empty.wait()
        await self._responder.drain()

    def pause(self) -> None:
        self._taking.clear()

    def resume(self) -> None:
        self._taking.set()

    async def close(self) -> None:
        self.is_over = True
        if self._beat is not None:
            self._beat.cancel()
        self._taking.set()
        try:
            async with asyncio.timeout(0 if self.is_cut else FLUSH_TIME):
                await self._is_empty.wait()
        except TimeoutError:
            self.is_cut = True

    # What the frontend does with it

    async def turn(self) -> None:
        """Wait until the other side takes messages."""
        await self._taking.wait()

    def hear(self, data: bytes) -> None:
        """A POST brought this message."""
        if not self.is_over:
            self._on_message(data)

    def say(self, data: bytes, *, event: str = "message") -> None:
        """Send one event; a large one in pieces, at the pace of its reader, and what follows behind it."""
        encoded = encode_event(data, event=event)
        if self._is_empty.is_set() and len(encoded) <= SLICE:
            self._responder.send(encoded)
            return
        if self._waiting and self._held + len(encoded) > MAX_HELD:
            self.lose("the client reads too slowly")
            return
        self._waiting.append(encoded)
        self._held += len(encoded)
        self._is_empty.clear()
        self._is_filled.set()

    def lose(self, why: str) -> None:
        """The client is gone, or is treated so: everything it asked for is cancelled."""
        self.is_cut = True
        if not self.is_over:
            self.is_over = True
            self._on_close(ConnectionResetError(why))

    async def write(self) -> None:
        """Write what waits, piece by piece; until it is cancelled."""
        while True:
            await self._is_filled.wait()
            while self._waiting:
                view = memoryview(self._waiting[0])
                for at in range(0, len(view), SLICE):
                    self._responder.send(bytes(view[at : at + SLICE]))
                    await self._responder.drain()
                self._held -= len(self._waiting.popleft())
            self._is_filled.clear()
            self._is_empty.set()

    def _next_beat(self) -> None:
        self._beat = asyncio.get_running_loop().call_later(self._keep_alive, self._comment)

    def _comment(self) -> None:
        if not self.is_over:
            if self._is_empty.is_set():
                self._responder.send(comment())
            self._next_beat()


class _PostHeaders(Mapping[str, str]):
    """The headers of whoever speaks: those of the client's POST that brought a message, in the tasks it started; else the
    stream's. A task may live on for others, so it is looked at whose POST it was."""

    def __init__(self, client: SseClient, stream: Mapping[str, str]) -> None:
        self._client = client
        self._stream = stream

    def __getitem__(self, name: str) -> str:
        return self._spoken()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._spoken())

    def __len__(self) -> int:
        return len(self._spoken())

    def _spoken(self) -> Mapping[str, str]:
        posted = _posted.get()
        return posted[1] if posted is not None and posted[0] is self._client else self._stream


def _takes_events(accept: str | None) -> bool:
    """Whether an Accept header lets an event stream come; without one everything may."""
    if accept is None:
        return True
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    return not kinds.isdisjoint(("text/event-stream", "text/*", "*/*"))


async def _refuse(request: HttpRequest, responder: Responder, error: BridgeError, status: int | None = None) -> None:
    """Refuse the HTTP request with this error: nothing of it is answered on the stream."""
    headers = [JSON]
    if challenge := error.data.pop("challenge", None):
        headers.append(("www-authenticate", challenge))
    status = error.fault.status if status is None else status
    if status in (429, 503):
        headers.append(("retry-after", error.retry_after or "1"))
    await responder.respond(status, headers, m.error(error.id, to_wire(error, request.id)).encode())
