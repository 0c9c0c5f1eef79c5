"""Peer: the one JSON-RPC correlator over a duplex Connection, the same on both sides of the bridge.

    towards a server:  call() sends under ids of our own    inbox.asked() gets the server's questions
    towards a client:  call() puts a question to the client  inbox.asked() gets the client's requests

Ids and progress tokens are mapped on the way out and back on the way in; everything else keeps its bytes. Every task of a
Peer belongs to it, never raises, and ends with it.

Source: JSON-RPC 2.0; MCP cancellation and progress; architecture sections 4 and 6; mcp-eras section 1.1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Raw

from mcpbridge.core.batch import Batch, Slot
from mcpbridge.core.exchange import NoReply, Reply
from mcpbridge.core.ports import Connection, Inbox
from mcpbridge.core.tasks import Flag, Spawn
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.framing import Overlong
from mcpbridge.wire.message import Message, Notification, Request, RequestId, Response
from mcpbridge.wire.spec import LOG_LEVEL, SUBSCRIPTION_ID

_log = log("protocol")
LAST_WORDS = 0.5  # seconds from the first sign of an end until it is known how it ended
_NO_REPLY = NoReply()
MAX_GARBAGE = 3  # things in a row that are no message, from a server that has nothing else to say on its connection
MAX_SERVED = 10_000  # requests of the other side that are served at once; a flood of them is refused
MAX_HELD = 64 << 20  # bytes of such requests, above which no more is read until some are answered


class Call(msgspec.Struct):
    """One request of ours in flight: where its answer, progress and notifications go."""

    request: Request
    reply: Reply
    answer: asyncio.Future[Response]


def outgoing(request: Request, upstream_id: int) -> Request:
    """The request as the other side sees it: our id, and our id as progress token too (unique per conversation)."""
    sent = request.with_id(upstream_id)
    if "progressToken" in request.meta:
        sent = sent.with_meta({**request.meta, "progressToken": Raw(str(upstream_id).encode())})
    return sent


def incoming(notification: Notification, request: Request) -> Notification:
    """A notification about one of our calls, with the caller's own token or subscription id put back."""
    if notification.method == "notifications/progress" and "progressToken" in request.meta:
        params = dict(notification.params or {})
        params["progressToken"] = request.meta["progressToken"]
        return notification.with_params(params)
    if SUBSCRIPTION_ID in notification.meta:
        return notification.with_meta({**notification.meta, SUBSCRIPTION_ID: Raw(m.dumps(request.id))})
    return notification


def answered(response: Response, request: Request) -> Response:
    """The answer with the caller's id; the final result of a listen names the caller's id in its ``_meta`` as well."""
    if (
        request.method == "subscriptions/listen"
        and response.result is not None
        and SUBSCRIPTION_ID.encode() in bytes(response.result)
    ):
        value = msgspec.json.decode(response.result, type=dict[str, Raw])
        meta = msgspec.json.decode(value.get("_meta", Raw(b"{}")), type=dict[str, Raw])
        meta[SUBSCRIPTION_ID] = Raw(m.dumps(request.id))
        value["_meta"] = Raw(m.join(meta))
        response = response.with_result(m.join(value))
    return response.with_id(request.id)


class Peer:
    """Correlates requests and answers on one connection, both ways. Also the Upstream of every duplex transport.

    ``client`` says who is on the other side: a client (strict parsing, parse errors are answered) or a server (noise is
    remembered in ``noise`` and ignored, so that a timeout can name it).
    """

    __slots__ = (
        "_admit",
        "_admitting",
        "_answered",
        "_calls",
        "_client",
        "_closed",
        "_connection",
        "_garbage",
        "_held",
        "_inbox",
        "_is_closed",
        "_is_deaf",
        "_last_answer",
        "_last_id",
        "_loop",
        "_max_garbage",
        "_name",
        "_spawn",
        "_tasks",
        "_unstarted",
        "idle",
        "noise",
    )
    names_request = False

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        spawn: Spawn,
        *,
        client: bool,
        name: str = "",
        admit: Callable[[list[Message]], Awaitable[None] | None] | None = None,
        max_garbage: int = 0,
    ) -> None:
        """``admit`` says whether a client may send a batch, by raising BridgeError: at once (None) or when it can tell.

        ``max_garbage``: so many things in a row that are no message end the conversation with a server; 0 where its other
        output may come between (stdio).
        """
        self._connection = connection
        self._inbox = inbox
        self._spawn = spawn
        self._client = client
        self._name = name
        self._admit = admit
        self._max_garbage = max_garbage
        self._garbage = 0  # in a row
        self._answered = 0  # our newest call that was answered; while it is in ``_calls`` its caller has not run yet
        self._unstarted: set[RequestId] = set()  # questions of a server whose task has not run yet
        self._admitting = 0
        self._held = 0  # bytes of the requests that are being served
        self._calls: dict[int, Call] = {}
        self._tasks: dict[RequestId, asyncio.Task[None]] = {}
        self._last_id = 0
        self._closed: BaseException | None = None
        self._is_closed = False
        self._is_deaf = False  # the other side says no more; a client that closed its stdin may still read answers
        self._last_answer: BridgeError | None = None  # to everything that is cut off from now on
        self.noise = ""
        self.idle = Flag()  # set while no request of the other side is being served
        self.idle.set()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection.start(self._on_message, self._on_close)

    # Out: requests and notifications of ours

    async def call(self, request: Request, reply: Reply = _NO_REPLY) -> Response:
        if self._is_deaf:
            raise self._ended(sent=False)
        self._last_id += 1
        upstream_id = self._last_id
        call = Call(request, reply, self._loop.create_future())
        self._calls[upstream_id] = call
        try:
            try:
                self._send(outgoing(request, upstream_id).encode())
            except BridgeError:
                await asyncio.wait([call.answer], timeout=LAST_WORDS)
                if self._closed is None:
                    raise
                raise self._ended(sent=False) from None  # it was ending: how it ended says more
            response = await call.answer
            return answered(response, request)
        except asyncio.CancelledError as cancelled:
            # `initialize` must never be cancelled (MCP cancellation); the answer, if it comes, finds no call and is dropped.
            if not self._is_closed and request.method != "initialize" and call.answer.cancelled():
                reason = cancelled.args[0] if cancelled.args else None
                params = {"requestId": upstream_id} | ({"reason": reason} if isinstance(reason, str) else {})
                self._try_send(m.notification("notifications/cancelled", params).encode())
            raise
        finally:
            self._calls.pop(upstream_id, None)

    async def notify(self, notification: Notification) -> None:
        self.notify_now(notification)
        await self._connection.drain()

    def notify_now(self, notification: Notification) -> None:
        """Send at once, in order with everything sent before; dropped when the connection is over."""
        if not self._is_closed:
            self._try_send(notification.encode())

    async def drain(self) -> None:
        await self._connection.drain()

    async def close(self) -> None:
        await self._connection.close()
        self._on_close(ConnectionAbortedError("closed by the bridge"))

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def in_flight(self) -> int:
        return len(self._calls)

    def cancel_served(self, reason: str, answer: BridgeError | None = None) -> None:
        """Cancel every request of the other side that is being served; with an ``answer`` if it can still hear one."""
        self._last_answer = answer
        for task in list(self._tasks.values()):
            task.cancel(reason)

    def refused(self, id: RequestId, error: BridgeError) -> None:
        """The transport could not deliver our request ``id``: its call fails with ``error``, the others go on."""
        call = self._calls.get(id) if isinstance(id, int) else None
        if call is not None and not call.answer.done():
            call.answer.set_exception(error)

    # In: everything the other side says

    def _on_message(self, raw: bytes) -> None:
        try:
            parsed = parse(raw, client=self._client)
        except BridgeError as error:
            self._on_garbage(raw, error)
            return
        self._garbage = 0
        try:
            if isinstance(parsed, list):
                self._on_batch(parsed)
            else:
                self._on_parsed(parsed)
        except Exception as error:  # in the transport's callback: what else came with these bytes must not be lost  # noqa: BLE001 - answered and logged; a request task never raises
            _log.error("message could not be taken", server=self._name, error=repr(error), exc_info=True)

    def _on_batch(self, batch: list[Message]) -> None:
        """A server's batch is split whatever its version, as some send them; a client's only when it may send one."""
        try:
            if self._client and self._admit is None:
                raise BridgeError("invalid_request", "batches are not supported here")
            waiting = self._admit(batch) if self._admit is not None else None
        except BridgeError as error:
            self._try_send(m.error(None, to_wire(error)).encode())
            return
        if waiting is None:
            self._split(batch)
        else:
            self._admitting += 1
            self.idle.clear()
            self._spawn(self._split_later(waiting, batch)).add_done_callback(self._admitted)

    def _split(self, batch: list[Message]) -> None:
        answers = Batch(self._try_send)
        for message in batch:
            self._on_parsed(message, answers.slot() if isinstance(message, Request) else None)
        answers.close()

    async def _split_later(self, waiting: Awaitable[None], batch: list[Message]) -> None:
        try:
            await waiting
            self._split(batch)
        except BridgeError as error:
            self._try_send(m.error(None, to_wire(error)).encode())

    def _admitted(self, _task: asyncio.Task[None]) -> None:
        self._admitting -= 1
        self._rest()

    def _on_parsed(self, message: Message, slot: Slot | None = None) -> None:
        if isinstance(message, Response):
            call = self._calls.get(message.id) if isinstance(message.id, int) else None
            if call is not None and not call.answer.done():
                call.answer.set_result(message)
                self._answered = message.id  # type: ignore[assignment]
            else:
                _log.debug("late or unknown answer dropped", server=self._name, rpc_id=str(message.id))
        elif isinstance(message, Request):
            refusal: BridgeError | None = None
            if message.id in self._tasks:
                refusal = BridgeError("invalid_request", "a request with this id is still in flight")
            elif len(self._tasks) >= MAX_SERVED:
                refusal = BridgeError("queue_full", f"{MAX_SERVED} requests are in flight already")
            if refusal is not None:
                self._say(m.error(message.id, to_wire(refusal)).encode(), slot)
                if slot is not None:
                    slot.done()
                return
            self.idle.clear()
            if not self._client:
                self._unstarted.add(message.id)
            task = self._tasks[message.id] = self._spawn(self._serve(message, slot))
            size = len(message.raw)
            self._hold(size)
            task.add_done_callback(lambda _task: self._served(message.id, slot, size))  # also when cancelled before it began
        elif not self._client and (self._unstarted or self._answered in self._calls):
            # What the server said before goes on in a task of its own, which the loop runs next: this comes after it.
            self._loop.call_soon(self._on_later, message)
        else:
            self._on_notification(message)

    def _on_later(self, notification: Notification) -> None:
        try:
            self._on_notification(notification)
        except Exception as error:  # noqa: BLE001 - logged; as in _on_message
            _log.error("message could not be taken", server=self._name, error=repr(error), exc_info=True)

    def _on_notification(self, notification: Notification) -> None:
        if notification.method == "notifications/cancelled":
            id = _plain(notification.param("requestId"))
            task = self._tasks.get(id) if isinstance(id, (int, str)) else None
            if task is not None:
                task.cancel(_plain(notification.param("reason")))
            return
        call = self._call_named_by(notification)
        if call is not None:
            call.reply.notify(incoming(notification, call.request))
        elif notification.method == "notifications/progress":
            _log.debug("progress of no call in flight dropped", server=self._name)  # to others its token means another call
        else:
            self._inbox.notified(notification)

    def _call_named_by(self, notification: Notification) -> Call | None:
        if notification.method == "notifications/progress":
            token = _plain(notification.param("progressToken"))
            return self._calls.get(token) if isinstance(token, int) else None
        if SUBSCRIPTION_ID in notification.meta:
            upstream_id = _plain(notification.meta[SUBSCRIPTION_ID])
            return self._calls.get(upstream_id) if isinstance(upstream_id, int) else None
        if notification.method == "notifications/message":
            # A pipe does not say which call a log line belongs to; the pool lets only calls of one client ask for logs at once.
            return next((call for call in self._calls.values() if LOG_LEVEL in call.request.meta), None)
        return None

    async def _serve(self, request: Request, slot: Slot | None = None) -> None:
        self._unstarted.discard(request.id)
        try:
            response = await self._inbox.asked(request)
            encoded = (response if response.id == request.id else response.with_id(request.id)).encode()
            if slot is not None:
                slot.put(encoded)
            elif not self._is_closed:
                self._send(encoded)
                await self._connection.drain()
        except asyncio.CancelledError:
            # Cancelled by the other side: nothing more may be said about this request (MCP cancellation).
            if self._last_answer is not None:
                self._say(m.error(request.id, to_wire(self._last_answer)).encode(), slot)
        except BridgeError as error:
            self._say(m.error(request.id, to_wire(error)).encode(), slot)
        except ConnectionError:
            pass  # the other side is gone; on_close tells everyone
        except Exception as error:  # noqa: BLE001 - answered and logged; a request task never raises
            _log.error("request failed inside the bridge", error=repr(error), method=request.method, exc_info=True)
            self._say(m.error(request.id, to_wire(BridgeError("internal_error"))).encode(), slot)

    def _hold(self, size: int) -> None:
        """So many bytes of requests more are kept, or less."""
        was_full = self._held > MAX_HELD
        self._held += size
        if was_full is not (self._held > MAX_HELD):
            (self._connection.resume if was_full else self._connection.pause)()

    def _served(self, id: RequestId, slot: Slot | None, size: int) -> None:
        del self._tasks[id]
        self._hold(-size)
        self._unstarted.discard(id)
        if slot is not None:
            slot.done()
        self._rest()

    def _rest(self) -> None:
        if not self._tasks and not self._admitting:
            self.idle.set()

    def _on_garbage(self, raw: bytes, error: BridgeError) -> None:
        if self._client:
            self._try_send(m.error(error.id, to_wire(error)).encode())
            return
        call = self._calls.get(error.id) if isinstance(error.id, int) else None
        if call is not None and not call.answer.done():
            reason = "answer_too_large" if isinstance(raw, Overlong) else "bad_answer"
            call.answer.set_exception(BridgeError(reason, str(error), server=self._name))
            return
        if not self.noise:
            _log.warn(
                "server wrote something that is not a JSON-RPC message",
                server=self._name,
                text=raw[:200].decode(errors="replace"),
            )
        self.noise = raw[:200].decode(errors="replace")
        self._garbage += 1
        if self._garbage == self._max_garbage:
            detail = f"server {self._name!r}: {self._garbage} in a row are no JSON-RPC message, the last one {self.noise!r}"
            self._on_close(BridgeError("bad_answer", detail, server=self._name))
            self._spawn(self._connection.close())

    def _on_close(self, cause: BaseException | None) -> None:
        if self._is_closed or (self._is_deaf and cause is None and self._client):
            return
        # EOF from a client is a half-close: what it asked is still answered (shared decision 3). From a server it is the end.
        self._is_closed = cause is not None or not self._client
        self._is_deaf = True
        self._closed = cause
        for call in self._calls.values():
            if not call.answer.done():
                call.answer.set_exception(self._ended(sent=True))
        if self._is_closed:
            self.cancel_served("connection closed")
        self._inbox.closed(cause)

    def _ended(self, *, sent: bool) -> BridgeError:
        if isinstance(self._closed, BridgeError):
            return BridgeError(self._closed.reason, self._closed.detail, sent=sent, **self._closed.data)
        return BridgeError("stream_closed", str(self._closed or "the other side closed the connection"), sent=sent)

    def _send(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except ConnectionError as error:
            raise BridgeError("stream_closed", str(error), sent=False) from error

    def _say(self, answer: bytes, slot: Slot | None) -> None:
        """An answer goes to its batch, or at once."""
        if slot is not None:
            slot.put(answer)
        else:
            self._try_send(answer)

    def _try_send(self, data: bytes) -> None:
        try:
            self._connection.send(data)
        except ConnectionError:
            pass  # nobody is there to read it; on_close reports the end
        except BridgeError as error:
            _log.warn("message dropped", server=self._name, reason=str(error))  # this connection cannot carry it


def _plain(raw: Raw | None) -> Any:
    return None if raw is None else m.loads(raw)
