"""SseConnection: the two halves of HTTP+SSE as one Connection towards a server. Events come in, messages go out by POST.

POSTs travel beside each other, but a message waits a moment where the order matters: each for the notification before it
(`initialized` comes first), and a cancel for its request (one that overtakes it cancels nothing).

Source: MCP 2024-11-05 basic/transports; mcp-eras sections 1.4 and 8; contract ``error.sse-closed``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import msgspec

from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.http1.client import HttpResponse
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.wire.message import RequestId
from mcpbridge.wire.sse import SseEvent

_log = log("sse")
ORDER_TIME: Final = 1.0  # seconds a message waits until one before it is taken
TAKE_TIME: Final = 30.0  # seconds a server may take to say 202; some answer only when the call is over
MAX_TELLING: Final = 20  # POSTs at once that are no requests: each takes a connection of its own when none is free
MAX_WAITING: Final = 200  # of them waiting for their turn; then the stream is not read on, for what comes there begets them
CLOSE_TIME: Final = 1.0  # seconds the reader of a stream has to end

Events = AsyncGenerator[list[SseEvent], None]
"""The events of a stream in the pieces they come in; closing it closes the stream."""

OnRefused = Callable[[RequestId, BridgeError], None]


class _Kind(msgspec.Struct):
    """Just enough of a message of ours to know how it travels."""

    id: RequestId | None = None
    method: str | None = None


class _Params(msgspec.Struct):
    request: RequestId = msgspec.field(name="requestId")


class _Cancelled(msgspec.Struct):
    params: _Params


_kind = msgspec.json.Decoder(_Kind).decode
_cancelled = msgspec.json.Decoder(_Cancelled).decode


class SseConnection:
    """The two halves as one Connection: events in, POSTs out."""

    def __init__(
        self,
        name: str,
        spawn: Spawn,
        pool: HttpPool,
        target: str,
        headers: list[tuple[str, str]],
        first: list[SseEvent],
        events: Events,
        max_response: int,
    ) -> None:
        self.on_refused: OnRefused = lambda _id, _error: None  # a request the server did not take
        self.on_lost: Callable[[], None] = lambda: None  # the stream has ended, and not by us
        self._name = name
        self._spawn = spawn
        self._pool = pool
        self._target = target
        self._headers = [("content-type", "application/json"), ("accept", "application/json"), *headers]
        self._first = first
        self._events = events
        self._max_response = max_response
        self._on_message: Callable[[bytes], None]
        self._on_close: Callable[[BaseException | None], None]
        self._reader: asyncio.Task[None] | None = None
        self._requests: dict[RequestId, asyncio.Task[None]] = {}  # POSTs under way
        self._told: set[asyncio.Task[None]] = set()  # those of notifications and answers
        self._last_note: asyncio.Task[None] | None = None
        self._turns = asyncio.Semaphore(MAX_TELLING)
        self._has_room = asyncio.Event()  # few wait to be told
        self._has_room.set()
        self._is_refused = False  # the newest of them was, which is logged once
        self._reading = asyncio.Event()
        self._reading.set()
        self._is_over = False

    def start(self, on_message: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        self._on_message, self._on_close = on_message, on_close
        self._reader = self._spawn(self._read())
        self._reader.add_done_callback(lambda _task: self._end(None))  # also when it is cancelled before it began

    def send(self, data: bytes) -> None:
        if self._is_over:
            raise ConnectionResetError(f"the stream of server {self._name!r} has ended")
        kind = _kind(data)
        request = kind.id if kind.method is not None else None
        before = [] if self._last_note is None else [self._last_note]
        if kind.method == "notifications/cancelled" and (post := self._post_of_cancelled(data)) is not None:
            before.append(post)
        task = self._spawn(self._post(data, request, before))
        if request is not None:
            self._requests[request] = task
            task.add_done_callback(lambda _task: self._requests.pop(request, None))
            return
        if kind.method is not None:
            self._last_note = task
        self._told.add(task)
        task.add_done_callback(self._was_told)
        if len(self._told) > MAX_WAITING:
            self._has_room.clear()

    async def drain(self) -> None:
        """Wait while many messages wait to be told."""
        await self._has_room.wait()

    def _post_of_cancelled(self, data: bytes) -> asyncio.Task[None] | None:
        try:
            return self._requests.get(_cancelled(data).params.request)
        except msgspec.DecodeError:
            return None  # it is about something else

    def _was_told(self, task: asyncio.Task[None]) -> None:
        self._told.discard(task)
        if task is self._last_note:
            self._last_note = None
        if len(self._told) <= MAX_WAITING:
            self._has_room.set()

    def pause(self) -> None:
        self._reading.clear()

    def resume(self) -> None:
        self._reading.set()

    async def close(self) -> None:
        self._is_over = True
        self._cancel_posts()
        if self._reader is not None:
            self._reader.cancel("the conversation is closed")
            await asyncio.wait([self._reader], timeout=CLOSE_TIME)
        if self._reader is None or self._reader.done():
            await self._events.aclose()

    # Down

    async def _read(self) -> None:
        cause = BridgeError("stream_closed", f"server {self._name!r} ended it", server=self._name, protocol="sse")
        try:
            async with aclosing(self._events):
                await self._take(self._first)
                async for events in self._events:
                    await self._take(events)
        except BridgeError as error:
            cause = BridgeError(error.reason, f"server {self._name!r}: {error.detail}", server=self._name, protocol="sse")
        self._end(cause)

    async def _take(self, events: list[SseEvent]) -> None:
        for event in events:
            if event.event == "message" and event.data:
                if not self._reading.is_set():
                    await self._reading.wait()
                if not self._has_room.is_set():
                    await self._has_room.wait()
                self._on_message(event.data)
        await asyncio.sleep(0)  # what they set off comes before the next ones

    def _end(self, cause: BaseException | None) -> None:
        if not self._is_over:
            self._is_over = True
            self._cancel_posts()
            if cause is not None:
                self.on_lost()
            self._on_close(cause)

    def _cancel_posts(self) -> None:
        for task in [*self._requests.values(), *self._told]:
            task.cancel("the stream has ended")

    # Up

    async def _post(self, data: bytes, request: RequestId | None, before: list[asyncio.Task[None]]) -> None:
        """Deliver one message. ``request``: its id when it is a request, whose call fails when it is not taken."""
        if before:
            await asyncio.wait(before, timeout=ORDER_TIME)
        try:
            if request is not None:
                async with asyncio.timeout(TAKE_TIME):
                    await self._deliver(data, queued=True)
            else:
                async with self._turns, asyncio.timeout(TAKE_TIME):
                    await self._deliver(data, queued=False)
                self._is_refused = False
        except TimeoutError:
            _log.debug("a POST is not answered", server=self._name)  # it may have been taken: the stream will tell
        except BridgeError as error:
            failure = BridgeError(error.reason, error.detail, sent=error.sent, **({"server": self._name} | error.data))
            if request is not None:
                self.on_refused(request, failure)
            elif not self._is_refused:
                self._is_refused = True
                _log.warn("server did not take a message", server=self._name, reason=str(failure))
            if error.reason == "backend_session_lost":
                self._lose(failure)

    async def _deliver(self, data: bytes, *, queued: bool) -> None:
        """POST it. Raises BridgeError when the server did not take it."""
        response = await self._pool.request(
            "POST", self._target, self._headers, data, retry_safe=False, max_response=self._max_response, queued=queued
        )
        status = response.status
        async with aclosing(response):
            if 200 <= status < 300:
                await self._skim(response)
                return
        if status in (404, 410):
            detail = f"server {self._name!r} no longer knows the stream"
            raise BridgeError("backend_session_lost", detail, sent=False, status=status)
        detail = f"server {self._name!r} answered HTTP {status}{self._pool.through}"
        reason = "backend_refused" if status in (401, 403) else "backend_error"
        raise BridgeError(reason, detail, sent=status >= 500, status=status)

    async def _skim(self, response: HttpResponse) -> None:
        """The body of a 2xx: read it to keep the connection; a JSON-RPC answer in it is one, though the stream is its place."""
        kind = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
        if kind == "text/event-stream":
            return  # may never end
        try:
            body = await response.read()
        except BridgeError as error:
            _log.debug("body of a taken POST lost", server=self._name, reason=str(error))
            return
        if kind == "application/json" and body.lstrip(b" \t\r\n")[:1] == b"{":
            self._on_message(body)  # one that comes on the stream too finds no call any more

    def _lose(self, cause: BridgeError) -> None:
        if self._reader is not None:
            self._reader.cancel("the server forgot the stream")
        self._end(cause)
