"""DuplexClient: a client at the other end of a duplex connection (stdio, WebSocket, HTTP+SSE, TCP binary), either era.

    connection --> Peer --> DuplexClient.asked --> front ring
                        <-- reply, questions, what belongs to no call

    a listener:  await admit(arrival)                      where a transport can refuse before the first message
                 await serve(connection, arrival)          one client to its end; core.reception.Reception has both

The first request decides the era, by its body. Everything a legacy client sends after `initialize` waits for its answer, so
that a whole conversation may be piped in at once.

Source: mcp-eras sections 1.1 and 2; architecture section 6; contract cli.router.run, local.max_concurrent_requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Caller, Deadline, Era, Exchange, Handler, NoReply, Principal, Reply, view_of
from mcpbridge.core.peer import Peer
from mcpbridge.core.ports import Connection
from mcpbridge.core.server import Server
from mcpbridge.core.tasks import Flag, Spawn
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Message, Notification, Request, Response, result
from mcpbridge.wire.spec import SUBSCRIPTION_ID, check_batch, classify

_NO_REPLY = NoReply()
_came_behind: ContextVar[str | None] = ContextVar("came_behind", default=None)
LAST_ANSWERS = 1.0  # seconds for calls that are cut off to say so


@dataclass(frozen=True, slots=True)
class Arrival:
    """A client at the door of a duplex frontend.

    ``headers`` have lower-case names; ``authorization`` among them is checked at every message, and a listener may set it
    anew while the connection lives. ``server``: the one server it asked for (``/ws/NAME``), None for everything.
    """

    protocol: str  # stdio websocket sse tcp_binary
    address: str = ""  # of the peer, for logs
    headers: Mapping[str, str] = field(default_factory=dict)
    server: str | None = None


Serve = Callable[[Connection, Arrival], Awaitable[None]]
"""Talks with one client until it is gone or the process ends, then closes the connection. Raises nothing but CancelledError.

The connection's ``on_close(None)`` is a half-close: what the client asked is still answered. A transport without one says why
the client is gone; its calls are then cancelled. ``close`` of such a connection lets out, bounded in time, what was sent.
"""

Admit = Callable[[Arrival], Awaitable[Principal | None]]
"""May this client come in, before its first message? Who it is; None where nobody signs in.

Raises BridgeError; ``fault.status`` is the HTTP status.
"""


class DuplexClient:
    """One client connection. ``start`` it, then wait for ``finished``.

    ``deadline``: seconds for a call. ``limit``: requests worked on at once; as many again wait in order, the next is refused.
    """

    __slots__ = (
        "_address",
        "_broken",
        "_deadline",
        "_ended",
        "_front",
        "_headers",
        "_initializing",
        "_limit",
        "_principal",
        "_protocol",
        "_session",
        "_slots",
        "_spawn",
        "_target",
        "_waiting",
        "peer",
    )

    def __init__(
        self,
        connection: Connection,
        front: Handler,
        target: Callable[[], Server | tuple[Server, ...]],
        spawn: Spawn,
        *,
        protocol: str,
        deadline: float,
        limit: int = 100,
        address: str = "",
        headers: Mapping[str, str] | None = None,
        principal: Principal | None = None,
    ) -> None:
        self.peer = Peer(connection, self, self._begin, client=True, name="client", admit=self._admit)
        self._front = front
        self._target = target
        self._spawn = spawn
        self._protocol = protocol
        self._deadline = deadline
        self._slots = asyncio.Semaphore(limit)
        self._limit = limit
        self._waiting = 0
        self._address = address
        self._headers = {} if headers is None else headers
        self._principal = principal
        self._session: ClientSession | None = None
        self._initializing: asyncio.Future[None] | None = None
        self._broken: BaseException | None = None
        self._ended = Flag()

    def start(self) -> None:
        self.peer.start()

    @property
    def session(self) -> ClientSession | None:
        return self._session

    async def finished(self, drain: float) -> BaseException | None:
        """Wait until the client closed its side and every request it sent is answered, ``drain`` seconds at most.

        Returns the cause when the connection broke, None after a clean end.
        """
        await self._ended.wait()
        if self._broken is None:
            try:
                async with asyncio.timeout(drain):
                    await self.peer.idle.wait()
                    await self.peer.drain()
            except TimeoutError:
                late = BridgeError("timeout", f"not answered within {drain:g} s of the end of the input")
                self.peer.cancel_served("the client is gone and the time to answer is over", late)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LAST_ANSWERS):
                        await self.peer.idle.wait()
                        await self.peer.drain()
        return self._broken

    # What the client says (Inbox of the Peer)

    async def asked(self, request: Request) -> Response:
        try:
            return await self._in_turn(request)
        except BridgeError as error:
            self._look_for_end(error)
            raise

    def notified(self, notification: Notification) -> None:
        self._begin(self._take(notification))

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work on a message under the token it came behind: the next token may be read before this task runs."""
        was = _came_behind.set(self._headers.get("authorization"))
        try:
            return self._spawn(work)
        finally:
            _came_behind.reset(was)

    def closed(self, cause: BaseException | None) -> None:
        if cause is not None:
            self._broken = cause
        self._ended.set()

    # What the session says to the client (BackChannel)

    def notify(self, notification: Notification) -> None:
        self.peer.notify_now(notification)

    async def ask(self, request: Request, reply: Reply) -> Response:
        return await self.peer.call(request, reply)

    @property
    def is_listening(self) -> bool:
        return not self.peer.is_closed

    def answered(self, response: Response) -> None:
        return None  # the Peer correlates answers itself

    def progressed(self, notification: Notification) -> bool:
        return False  # likewise

    def close(self) -> None:
        return None  # the connection outlives its session; the wiring closes it

    async def _in_turn(self, request: Request) -> Response:
        era = classify(request, None)
        read = monotonic()
        if era == "legacy" and self._initializing is not None and request.method != "initialize":
            await asyncio.wait([self._initializing])
        if self._waiting >= self._limit:
            raise BridgeError("queue_full", f"{2 * self._limit} requests are in flight already", sent=False)
        x = self._exchange(request, era, _DuplexReply(self.peer, era), read)
        if request.method == "subscriptions/listen":
            return await self._listen(x)  # lasts as long as its client: it must not hold a slot
        queued = self._slots.locked()
        self._waiting += queued
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= queued
        try:
            return await self._answer(x)
        finally:
            self._slots.release()

    def _look_for_end(self, error: BridgeError) -> None:
        """A client that is not, or no longer, signed in is told so, and that is the end of its connection."""
        if error.reason == "unauthorized":
            asyncio.get_running_loop().call_soon(self.closed, error)

    async def _listen(self, x: Exchange) -> Response:
        """A listen ends with the client's input: nobody will cancel it any more, and everything asked gets its answer."""
        answer = asyncio.ensure_future(self._answer(x))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait([answer, ended], return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            answer.cancel("the client closed its side")
        except asyncio.CancelledError as cancelled:
            answer.cancel(*cancelled.args)
            raise
        finally:
            ended.cancel()
        return result(x.request.id, {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: x.request.id}})

    def _admit(self, batch: list[Message]) -> Awaitable[None] | None:
        """Whether the client may send a batch: its session's version says it, which may still be on its way."""
        if self._session is None:
            return self._admit_later(batch)
        check_batch(batch, self._session.record.version)
        return None

    async def _admit_later(self, batch: list[Message]) -> None:
        if self._initializing is not None:
            await asyncio.wait([self._initializing])
        check_batch(batch, self._session.record.version if self._session is not None else None)

    async def _answer(self, x: Exchange) -> Response:
        if (
            x.request.method == "initialize"
            and x.caller.era == "legacy"
            and self._session is None
            and self._initializing is None
        ):
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._initializing = done
            x.open_back = lambda _record: self
            try:
                response = await self._front(x)
                if response is not None and response.error is None:
                    self._session = x.session
            finally:
                self._initializing = None
                done.set_result(None)
        else:
            response = await self._front(x)
        assert response is not None
        return response

    async def _take(self, notification: Notification) -> None:
        if self._initializing is not None:
            await asyncio.wait([self._initializing])
        era: Era = "legacy" if self._session is not None else "modern"
        try:
            await self._front(self._exchange(notification, era, _NO_REPLY, monotonic()))
        except BridgeError as error:
            self._look_for_end(error)  # nobody waits for an answer; the front ring has logged it

    def _exchange(self, message: Request | Notification, era: Era, reply: Reply, read: float) -> Exchange:
        """``read``: when it came, from which its deadline counts."""
        headers, token = self._headers, _came_behind.get()
        if token != headers.get("authorization"):
            headers = {name: value for name, value in headers.items() if name != "authorization"}
            headers |= {"authorization": token} if token is not None else {}
        caller = Caller(self._protocol, era, self._address, headers, self._principal, connection=self)
        deadline = Deadline(self._deadline, read)
        session = self._session if era == "legacy" else None
        return Exchange(message, view_of(message, era), caller, reply, deadline, self._target(), session)


class _DuplexReply:
    """The way back over the same connection; a legacy client can be asked while it waits."""

    __slots__ = ("_peer", "can_ask")

    def __init__(self, peer: Peer, era: Era) -> None:
        self._peer = peer
        self.can_ask = era == "legacy"

    def notify(self, notification: Notification) -> None:
        self._peer.notify_now(notification)

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        return await self._peer.call(request, asker or _NO_REPLY)
