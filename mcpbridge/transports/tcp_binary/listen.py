"""Clients over TCP: negotiation and sign-in at the door, then each connection is a client of the reception.

    start -> (serving) -> stop_accepting -> drain -> close

A connection that says nothing costs a transport and a small object (2 kB): what talks with a client is made for its first
message. There are no timers per connection; once a second the frontend looks at all of them.

Source: architecture section 8; wire.mcpb; contract http.gateway.tcp, limit.auth.per-message, ``server.max_connections*``.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
from collections.abc import Coroutine
from typing import Any, Final

from mcpbridge.core.duplex import Admit, Arrival, Serve
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.doors import BACKLOG, ConnectionLimits, TlsDoor, address_key, bind, notice_dead_peers, tell_plain
from mcpbridge.transports.http1 import pace
from mcpbridge.transports.tcp_binary import connection as shared
from mcpbridge.transports.tcp_binary.connection import CONSUMER, SIGN_IN, FrameConnection, OnClose, OnMessage
from mcpbridge.wire import mcpb

PRELUDE_TIME: Final = 5.0  # seconds for the negotiation, and again for the sign-in
TICK: Final = 1.0  # seconds between two looks at every connection
SECOND_PROBE: Final = 0.05  # seconds; the first one draws the reset that the second one finds
END_TIME: Final = 5.0  # seconds cancelled conversations may take to end

_BEFORE: Final = frozenset((mcpb.NEGOTIATE, mcpb.HEALTH, mcpb.ERROR))
_SIGN_IN: Final = frozenset((mcpb.CONTROL, mcpb.HEALTH, mcpb.ERROR))
_OPEN: Final = mcpb.MESSAGES | _SIGN_IN

_log = log("tcp_binary")


class TcpFrontend:
    """Serves MCPB on any number of listening sockets, and on connections that begin elsewhere (``protocol``)."""

    def __init__(
        self,
        serve: Serve,
        admit: Admit,
        *,
        auth_required: bool,
        max_message: int = mcpb.MAX_PAYLOAD,
        limits: ConnectionLimits | None = None,
    ) -> None:
        """``auth_required``: a control frame must sign in before the first message. ``max_message`` in bytes; ``limits`` on
        connections may be shared with other frontends."""
        self.serve = serve
        self.admit = admit
        self.auth_required = auth_required
        self.max_message = max_message
        self.limits = limits or ConnectionLimits()
        self.now = 0.0  # loop time of the last look
        self.tasks: set[asyncio.Task[None]] = set()
        self._connections: set[Accepted] = set()
        self._listeners: list[asyncio.AbstractServer] = []
        self._door = TlsDoor(
            self.limits, lambda key: Accepted(self, key), self._refuse_plain, lambda _status: None, self._say_of_door
        )
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._is_draining = False
        self._said: dict[str, float] = {}

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections) + self._door.waiting

    async def start(self, host: str, port: int, ssl: tls.SSLContext | None = None) -> tuple[str, int]:
        """Listen on every address of ``host``; port 0 takes a free one. Returns the address bound first. Raises OSError."""
        self._begin()
        loop = asyncio.get_running_loop()
        sockets = await bind(host, port)
        for listener in sockets:
            notice_dead_peers(listener)
            if ssl is not None:
                self._door.listen(listener, ssl)
            else:
                self._listeners.append(await loop.create_server(lambda: Accepted(self), sock=listener, backlog=BACKLOG))
        address = sockets[0].getsockname()
        return address[0], address[1]

    def protocol(self, first: bytes) -> asyncio.Protocol | None:
        """For connections that another listener has accepted and that begin with these bytes: ours if they are MCPB."""
        if not first.startswith((mcpb.MAGIC, b"MCP\x00")):
            return None
        self._begin()
        return Accepted(self)

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for listener in self._listeners:
            listener.close()
        self._door.stop_accepting()
        self._listeners = []

    async def drain(self, timeout: float) -> None:
        """Close connections without a conversation; the reception ends the others. Waits ``timeout`` seconds at most."""
        self._is_draining = True
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=timeout)
            self._emptied = None

    async def close(self) -> None:
        """Cut what is left and wait, bounded, until its conversations have ended. Idempotent."""
        self.stop_accepting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._connections):
            connection.fail(ConnectionAbortedError("the process ends"))
        left = {*self.tasks, *self._door.abort()}
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=END_TIME)

    # What connections tell

    def adopt(self, connection: Accepted, peer: str, key: str | None) -> str | None:
        """Take a new connection in, counted under ``key`` or not yet; its key. Raises BridgeError over a limit."""
        if self._is_draining:
            raise BridgeError("draining", "this process is shutting down", sent=False)
        if key is None:
            key = address_key(peer)
            status = self.limits.claim(key)
            if status:
                self.say("too many connections", peer)
                reason = "rate_limited" if status == 429 else "server_busy"
                raise BridgeError(reason, self.limits.words(status), sent=False)
        self._connections.add(connection)
        return key

    def forget(self, connection: Accepted, key: str) -> None:
        """A connection that was taken in is over."""
        self._connections.discard(connection)
        self.limits.release(key)
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def say(self, message: str, peer: str, cause: object = None) -> None:
        """A warning about something a stranger can cause at will: at most one line per message and second."""
        if self.now - self._said.get(message, -TICK) >= TICK:
            self._said[message] = self.now
            _log.warn(message, protocol="tcp_binary", peer=peer, cause=str(cause or ""))

    def _say_of_door(self, message: str, peer: str, cause: str) -> None:
        self.say(message, peer, cause)

    async def _refuse_plain(self, sock: socket.socket) -> None:
        await tell_plain(sock, mcpb.refuse(mcpb.mismatch("TLS", "no TLS")))

    def _begin(self) -> None:
        if self._timer is None:
            self._tick()

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK, self._tick)
        self.sweep(loop.time())

    def sweep(self, now: float) -> None:
        """End what takes too long. ``now`` is loop time in seconds."""
        self.now = now
        for connection in list(self._connections):
            connection.sweep(now)


class Accepted(FrameConnection):
    """Our end of a connection from a client."""

    __slots__ = ("_backlog", "_first", "_frontend", "_headers", "_key", "_mark", "_received", "_since", "_task", "_written")
    writes = mcpb.RESPONSE

    def __init__(self, frontend: TcpFrontend, key: str | None = None) -> None:
        """``key`` is the address key when the limits count this connection already (TLS: before the handshake)."""
        super().__init__(frontend.max_message, _BEFORE)
        self._frontend = frontend
        self._key = key
        self._headers: dict[str, str] | None = None
        self._task: asyncio.Task[None] | None = None  # of the sign-in, then of the conversation
        self._first = b""  # message, until somebody listens
        self._since = frontend.now  # when this stage, or the frame that is not complete, began
        self._received = self._mark = 0  # bytes of that frame, now and at ``_since``
        self._written = 0
        self._backlog: pace.Backlog | None = None  # while the write buffer is full

    # What the transport tells us

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        claimed, self._key = self._key, None
        try:
            self._key = self._frontend.adopt(self, self._address(), claimed)
        except BridgeError as error:
            if claimed is not None:
                self._frontend.limits.release(claimed)
            self.write(mcpb.refuse(error))
            self.finish(error)
            transport.close()  # no lingering: there are too many already

    def data_received(self, data: bytes) -> None:
        had_begun = self._reader.has_begun
        super().data_received(data)
        if self._reader.kinds is _OPEN and not had_begun:
            self._since, self._received, self._mark = self._frontend.now, 0, 0
        self._received += len(data)

    def eof_received(self) -> bool:
        super().eof_received()
        return not self._is_over and self._can_half_close()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self._backlog = pace.Backlog(self._frontend.now, self._written - self._transport.get_write_buffer_size())
        self.hold(shared.BACKLOG)  # who does not read gets no more answers

    def resume_writing(self) -> None:
        super().resume_writing()
        self._backlog = None
        self.release(shared.BACKLOG)

    def lost(self, exc: Exception | None) -> None:
        super().lost(exc)
        if self._key is not None:
            self._frontend.forget(self, self._key)
            self._key = None

    # What the client says

    def taken(self, frame: mcpb.Frame) -> None:
        kind, payload = frame
        if kind in mcpb.MESSAGES:
            if self._task is None:
                self._first = payload
                self.hold(CONSUMER)
                self._run(self._serve())
            else:
                self.deliver(payload)
        elif kind == mcpb.HEALTH:
            self.write(mcpb.encode(mcpb.HEALTH, payload))
        elif kind == mcpb.CONTROL:
            self._control(mcpb.authorization(payload))
        elif kind == mcpb.NEGOTIATE:
            mcpb.agree(payload)
            self.write(mcpb.AGREED)
            self._reader.kinds = _SIGN_IN if self._frontend.auth_required else _OPEN
            self._since = self._frontend.now
        else:
            error = mcpb.refused(payload)
            self._frontend.say("the client reports an error", self._address(), error)
            self.fail(error)

    def ended(self) -> None:
        """The client says no more. What it asked is answered; while it waits we look whether it still reads."""
        if self._reader.has_begun:
            self.refuse(mcpb.mismatch("the rest of a frame", "the end of the connection"))
        elif self._task is None:
            self.close_if_idle()
        elif not self._can_half_close():
            self.fail(ConnectionResetError("the client is gone"))
        elif self._on_close is not None:
            self._on_close(None)
            self._probe()
            asyncio.get_running_loop().call_later(SECOND_PROBE, self._probe)

    # The conversation

    def start(self, on_message: OnMessage, on_close: OnClose) -> None:
        super().start(on_message, on_close)
        first, self._first = self._first, b""
        if not self._is_over:
            on_message(first)

    def write(self, frame: bytes) -> None:
        self._written += len(frame)
        super().write(frame)

    def refuse(self, error: BridgeError) -> None:
        if not self._is_over:
            self._frontend.say("connection refused", self._address(), error)
        super().refuse(error)

    def finish(self, cause: BaseException | None) -> None:
        if self._holds & SIGN_IN and self._task is not None:
            self._task.cancel()
        super().finish(cause)

    def close_if_idle(self) -> None:
        """End a connection without a conversation."""
        if self._task is None:
            self.finish(None)
            self._leave()

    def _control(self, authorization: str | None) -> None:
        if authorization is None:
            return
        if self._headers is None:
            self._headers = {}
        self._headers["authorization"] = authorization
        if self._reader.kinds is _SIGN_IN:
            self.hold(SIGN_IN)
            self._run(self._sign_in())

    async def _sign_in(self) -> None:
        try:
            await self._frontend.admit(self._arrival())
        except BridgeError as error:
            self._task = None
            self.refuse(error)
        else:
            self._task = None
            self._reader.kinds = _OPEN
            self.release(SIGN_IN)

    async def _serve(self) -> None:
        try:
            await self._frontend.serve(self, self._arrival())
        except Exception as error:  # noqa: BLE001 - the barrier of one connection: others go on
            _log.error("conversation failed", protocol="tcp_binary", exc=error)
        finally:
            await self.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = self._frontend.tasks
        task = self._task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _arrival(self) -> Arrival:
        if self._headers is None:
            self._headers = {}
        return Arrival("tcp_binary", self._address(), self._headers)

    def _address(self) -> str:
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    def _can_half_close(self) -> bool:
        return self._transport is not None and self._transport.can_write_eof()

    # Time

    def sweep(self, now: float) -> None:
        """End what takes too long. Called about once a second with the loop's time in seconds."""
        if self._is_over or self._transport is None:
            return
        if self._reader.kinds is not _OPEN:
            if now - self._since > PRELUDE_TIME:
                what = "negotiation" if self._reader.kinds is _BEFORE else "sign-in"
                self.refuse(BridgeError("timeout", f"no {what} in {PRELUDE_TIME:.0f} s", sent=False))
        elif self._holds:
            self._since, self._mark = now, self._received  # the time is ours
        elif self._reader.has_begun and now - self._since >= pace.BODY_WINDOW:
            if self._received - self._mark < pace.BODY_RATE * pace.BODY_WINDOW:
                self.refuse(BridgeError("timeout", "a frame came too slowly", sent=False))
            self._since, self._mark = now, self._received
        if self._backlog is not None and self._transport is not None:
            waiting = self._transport.get_write_buffer_size()
            if self._backlog.is_stuck(now, self._written - waiting, waiting):
                self._frontend.say("the client reads too slowly", self._address())
                self.fail(ConnectionAbortedError("the client reads too slowly"))
        if self._has_ended:
            self._probe()

    def _probe(self) -> None:
        """Say something to a client that said its last: if it is gone, the reset comes back."""
        if not self._is_over and self._transport is not None and self._transport.get_write_buffer_size() == 0:
            with contextlib.suppress(ConnectionError):  # that is what we wanted to know; connection_lost follows
                self.write(mcpb.encode(mcpb.HEALTH))
